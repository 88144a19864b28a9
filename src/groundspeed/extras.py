"""Which extra a library belongs to: what is not installed is said with the way to get it."""

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
    "pyarrow": "fleet",
    "ray": "ray",
    "jinja2": "report",
    "markupsafe": "report",
    "huggingface_hub": "hub",
}
"""Extra by the name under which a library is imported."""


def missing_library(error: ModuleNotFoundError) -> str | None:
    """What to say of a library that is not installed; None if it is none of ours.

    >>> missing_library(ModuleNotFoundError("x", name="fsspec"))
    "fsspec is not installed; pip install 'groundspeed[fleet]'"
    """
    name = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(name)
    return None if extra is None else f"{name} is not installed; pip install 'groundspeed[{extra}]'"
