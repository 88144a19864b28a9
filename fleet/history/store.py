"""Keep a fleet's results in a folder that every node can write to, or at a URL that fsspec opens.

    STORE/runs/RUN.json                   level and nodes of the run
    STORE/unfinished/RUN/NODE/*.jsonl     journals of checks that are under way
    STORE/profiles/RUN/NODE/*.json        profiles, if the level is a calibration
    STORE/rows/RUN/NODE.parquet           one row for each value, written when a node is done

Each node writes its own files, so no lock and no server is needed, and the measurements of a node
that died are kept. DuckDB reads the Parquet files in place.

    Store("/shared/fleet").query("SELECT node, count(*) FROM measurements GROUP BY node")
"""

import contextlib
import glob
import re
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import pandas as pd
from pydantic import Field

from groundspeed.fleet.node_names import CheckLevel, file_name
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import RenamedRecord

if TYPE_CHECKING:
    import duckdb

COLUMNS = (
    "run", "date_utc", "node", "gpu", "metric", "value", "unit", "note", "sku", "memory",
    "power_cap", "partition", "driver", "benchmark_version", "ecc", "persistence", "pcie_width",
    "pcie_gen", "nvlinks", "clock_limit", "memory_clock_limit", "vbios",
)  # fmt: skip
"""Columns of a row; ``gpu`` is empty for a metric of the whole node."""

SYNC_PERIOD_S = 5.0
"""[s] Interval at which a journal is copied to a store that is not a folder."""

AGAIN = ".again"
"""Marker in the name of a run that measures the suspects of another run again."""

HEALTH = "health-"
"""Prefix of the name of a run that is the health check of one node."""

BASELINE = "baseline.json"
"""Name of the file in a store that holds the baseline of its nodes."""

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RunRecord(RenamedRecord):
    """Record of one run of a fleet, written when the run begins and updated when it ends."""

    old_names: ClassVar[Mapping[str, str]] = {"launcher": "engine"}

    run: str
    date_utc: str
    level: CheckLevel
    launcher: str
    nodes: tuple[str, ...]
    """Nodes to be measured; empty if only the launcher knows them."""
    finished: bool = False
    lost: dict[str, str] = Field(default_factory=dict)
    """Reason for each node without a result."""


@dataclass
class Store:
    """An open store of fleet results.

    Parameters
    ----------
    url : str
        A folder, or anything that fsspec opens (``s3://bucket/fleet``).

    Raises
    ------
    InputError
        If no installed fsspec file system can open the URL.
    """

    url: str
    _fs: Any = field(init=False, repr=False)
    _root: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"cannot be opened ({error})", where=self.url, remedy="give a folder or a URL"
            ) from error

    @property
    def is_folder(self) -> bool:
        """Whether the store is a folder on a file system of this machine."""
        protocol = self._fs.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def _path(self, *parts: str) -> str:
        return str(PurePosixPath(self._root, *parts))

    def exists(self) -> bool:
        """Return whether the store exists."""
        return bool(self._fs.exists(self._root))

    def write(self, data: bytes, *parts: str) -> None:
        """Write a file atomically.

        Raises
        ------
        InputError
            If the store cannot be written.
        """
        path = self._path(*parts)
        try:
            self._fs.makedirs(self._path(*parts[:-1]), exist_ok=True)
            if not self.is_folder:  # object stores show only complete objects
                self._fs.pipe_file(path, data)
                return
            with tempfile.NamedTemporaryFile(dir=Path(path).parent, delete=False) as file:
                file.write(data)
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except OSError as error:
            raise InputError(
                f"the store cannot be written ({error.strerror or error})", where=path
            ) from error

    def read(self, *parts: str) -> bytes | None:
        """Return the content of a file, or None if the file does not exist."""
        try:
            return bytes(self._fs.cat_file(self._path(*parts)))
        except FileNotFoundError:
            return None

    def names(self, *parts: str) -> list[str]:
        """Return the names of the entries of a folder in the store, sorted."""
        try:
            self._fs.invalidate_cache()
            paths = self._fs.ls(self._path(*parts), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(PurePosixPath(p).name for p in paths)

    @contextlib.contextmanager
    def folder(self, *parts: str) -> Iterator[Path]:
        """Open a folder of the store for appending.

        For a store that is not a folder of this machine, this is a local copy that is uploaded at
        regular intervals and at the end.
        """
        remote = self._path(*parts)
        if self.is_folder:
            Path(remote).mkdir(parents=True, exist_ok=True)
            yield Path(remote)
            return
        with tempfile.TemporaryDirectory() as name:
            here = Path(name)
            for known in self._fs.find(remote):
                copy = here / PurePosixPath(known).relative_to(remote)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(self._fs.cat_file(known))
            stop = threading.Event()

            def upload() -> None:
                for file in sorted(p for p in here.rglob("*") if p.is_file()):
                    self.write(file.read_bytes(), *parts, *file.relative_to(here).parts)

            def keep_in_step() -> None:
                while not stop.wait(SYNC_PERIOD_S):
                    upload()

            thread = threading.Thread(target=keep_in_step, daemon=True)
            thread.start()
            try:
                yield here
            finally:
                stop.set()
                thread.join()
                upload()

    def forget(self, *parts: str) -> None:
        """Remove a folder of the store, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(*parts), recursive=True)

    def write_rows(self, run: str, node: str, rows: pd.DataFrame) -> None:
        """Write the rows of a node, which marks the node as done."""
        whole = rows.reindex(columns=list(COLUMNS))
        # A column that is empty on this node must have the type that it has on others.
        texts = {c: "string" for c in COLUMNS if c not in ("gpu", "value")}
        data = whole.astype(texts).to_parquet(None, index=False)
        self.write(data, "rows", run, f"{file_name(node)}.parquet")

    def nodes_done(self, run: str) -> list[str]:
        """Return the nodes whose rows have been written."""
        names = self.names("rows", run)
        return [urllib.parse.unquote(n.removesuffix(".parquet")) for n in names
                if n.endswith(".parquet")]  # fmt: skip

    def write_run(self, record: RunRecord) -> None:
        """Write the record of a run."""
        self.write(record.model_dump_json(indent=1).encode(), "runs", f"{record.run}.json")

    def runs(self) -> list[RunRecord]:
        """Return the records of all runs, oldest first."""
        records = []
        for name in self.names("runs"):
            data = self.read("runs", name)
            if data is not None and name.endswith(".json"):
                try:
                    records.append(RunRecord.model_validate_json(data))
                except ValueError as error:
                    raise InputError(
                        "is not a valid run record", where=self._path("runs", name)
                    ) from error
        return sorted(records, key=lambda r: (r.date_utc, r.run))

    def query(self, sql: str) -> pd.DataFrame:
        """Run an SQL query; the table ``measurements`` holds all rows of all runs.

        Parameters
        ----------
        sql : str
            Query in DuckDB's dialect of SQL.

        Raises
        ------
        InputError
            If the store has no rows or the query is invalid.
        """
        import duckdb

        if not self._fs.glob(self._rows_pattern()):
            raise InputError("no node has finished yet", where=self.url)
        with duckdb.connect() as connection:
            source = self._source(connection)
            try:
                connection.execute(
                    "CREATE VIEW measurements AS SELECT * FROM "
                    f"read_parquet('{source}', union_by_name = true)"
                )
                answer = connection.sql(sql) if sql.strip() else None
                if answer is None:
                    raise InputError("the query has no result", where="--sql", remedy="SELECT ...")
                frame: pd.DataFrame = answer.df()
                return frame
            except duckdb.Error as error:
                reason = str(error).split("\n")[0]
                raise InputError(f"the query failed ({reason})", where=self.url) from error

    def _rows_pattern(self) -> str:
        """Return the glob pattern of all row files; brackets in the store's path are escaped."""
        return f"{glob.escape(self._root)}/rows/*/*.parquet"

    def _source(self, connection: "duckdb.DuckDBPyConnection") -> str:
        pattern = self._rows_pattern().replace("'", "''")
        if self.is_folder:
            return pattern
        connection.register_filesystem(self._fs)
        return str(self._fs.unstrip_protocol(pattern))

    def rows(self, runs: Sequence[str] = ()) -> pd.DataFrame:
        """Return the rows of the given runs, or of all runs, in a fixed order."""
        names = ", ".join("'" + r.replace("'", "''") + "'" for r in runs)
        where = f"WHERE run IN ({names})" if runs else ""
        known = set(self.query("SELECT * FROM measurements LIMIT 0").columns)
        return self.query(
            f"SELECT {', '.join(c for c in COLUMNS if c in known)} FROM measurements {where} "
            "ORDER BY date_utc, run, node, gpu NULLS FIRST, metric"
        )


def check_run_name(name: str) -> str:
    """Return a run's name if it is valid.

    Raises
    ------
    InputError
        If the name cannot be used as a file name.
    """
    if not RUN_NAME.fullmatch(name):
        raise InputError(f"'{name}' is not a valid run name", remedy="use letters, digits, . _ -")
    return name


def newest_run(store: Store) -> str:
    """Return the name of the newest run that is not a confirmation.

    Raises
    ------
    InputError
        If the store has no run.
    """
    runs = [r.run for r in store.runs() if AGAIN not in r.run]
    if not runs:
        raise InputError(
            "the store has no run", where=store.url, remedy="make one with: groundspeed fleet run"
        )
    return runs[-1]
