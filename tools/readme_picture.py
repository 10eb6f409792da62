"""Draw the picture that README.md shows: python tools/readme_picture.py"""

from pathlib import Path

from dpmpp_core import figures

if __name__ == "__main__":
    target = Path(__file__).parents[1] / "assets" / "cover.png"
    with figures.style():
        figures.cover().savefig(target, dpi=100)
    print(f"wrote {target}")
