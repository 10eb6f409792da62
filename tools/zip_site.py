"""Pack the built pages, to be read without a network: python tools/zip_site.py"""

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

BUILD = Path(__file__).resolve().parents[1] / "_build"


def pack(html: Path, target: Path) -> None:
    """Write the files of a folder below one named like the zip, alike for alike pages."""
    if not (html / "index.html").is_file():
        raise SystemExit(f"there is no book in {html}: run 'make book' first")
    with ZipFile(target, "w", ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(path for path in html.rglob("*") if path.is_file()):
            # The date says nothing, and would make every zip another one.
            entry = ZipInfo(f"{target.stem}/{file.relative_to(html).as_posix()}")
            entry.compress_type, entry.external_attr = ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, file.read_bytes())


if __name__ == "__main__":
    pack(BUILD / "html", BUILD / "one-sampler.zip")
    print(f"wrote {BUILD / 'one-sampler.zip'}")
