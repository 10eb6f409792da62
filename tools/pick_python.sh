#!/bin/sh
# Print the first of the named Python commands that the book can be built with (3.11 to 3.13).
# Where none will do, say so in one sentence and fail.
for candidate in "$@"; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
found=$("$1" -c 'import platform; print(platform.python_version())' 2>/dev/null) || found="not there"
echo "This book needs Python 3.11, 3.12 or 3.13, and '$1' is $found: name one, as in 'make book PYTHON=python3.12'." >&2
exit 1
