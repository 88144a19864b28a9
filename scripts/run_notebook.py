"""Run the example notebook from top to bottom, and save its output in the notebook.

python scripts/run_notebook.py            rewrite docs/notebook.ipynb with its output
python scripts/run_notebook.py --check    only run it, and write nothing
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
TIMEOUT_S = 300


def main() -> None:
    """Run the notebook; an error in any cell stops this script with a traceback."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # timestamps of this run would change in every commit
    if "--check" not in sys.argv:
        nbformat.write(notebook, NOTEBOOK)
    print(f"{sum(c.cell_type == 'code' for c in notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
