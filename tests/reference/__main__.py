"""``python -m tests.reference`` writes what docs/reference/ has from the code."""

from tests.reference.pages import FOLDER, PARTS, render_page

for name in PARTS:
    (FOLDER / name).write_text(render_page(name), "utf-8")
    print(FOLDER / name)
