"""Run the example notebook from top to bottom, and keep what it shows.

python scripts/run_notebook.py            rewrite docs/notebook.ipynb with its output
python scripts/run_notebook.py --check    only run it
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
TIMEOUT_S = 300


def main() -> None:
    """Run it; any error in a cell is ours."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this run: noise in a repository
    if "--check" not in sys.argv:
        nbformat.write(notebook, NOTEBOOK)
    print(f"{sum(c.cell_type == 'code' for c in notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
