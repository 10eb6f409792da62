#!/bin/sh
# Open an issue on GitHub, or add to the open one of the same title: open_issue.sh TITLE FILE
set -eu
number=$(gh issue list --state open --limit 1000 --json number,title \
    | TITLE="$1" python3 -c 'import json, os, sys
print(next((i["number"] for i in json.load(sys.stdin) if i["title"] == os.environ["TITLE"]), ""))')
if [ -n "$number" ]; then
    gh issue comment "$number" --body-file "$2"
else
    gh issue create --title "$1" --body-file "$2"
fi
