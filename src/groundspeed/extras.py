"""Map each optional library to the pip extra that installs it, for error messages."""

EXTRA_OF = {
    "pandas": "fit",
    "scipy": "fit",
    "matplotlib": "measure",
    "pynvml": "measure",
    "torch": "measure",
    "triton": "measure",
    "duckdb": "fleet",
    "fsspec": "fleet",
    "prometheus_client": "fleet",
    "httpx": "server",
    "tomli_w": "server",
    "pyarrow": "fleet",
    "ray": "ray",
    "jinja2": "report",
    "markupsafe": "report",
    "huggingface_hub": "hub",
}
"""Import name of each optional library -> name of the extra that installs it."""


def missing_library(error: ModuleNotFoundError) -> str | None:
    """Return the pip command for a missing library; None if no extra installs it.

    >>> missing_library(ModuleNotFoundError("x", name="fsspec"))
    "fsspec is not installed; pip install 'groundspeed[fleet]'"
    """
    name = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(name)
    return None if extra is None else f"{name} is not installed; pip install 'groundspeed[{extra}]'"
