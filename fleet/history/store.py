"""Keep a fleet's results in a folder that every node can write to, or at a URL that fsspec opens.

    STORE/runs/RUN.json                   level and nodes of the run
    STORE/unfinished/RUN/NODE/*.jsonl     journals of checks that are under way
    STORE/profiles/RUN/NODE/*.json        profiles, if the level is a calibration
    STORE/rows/RUN/NODE.parquet           one row a number, written when a node is done

Each node writes files of its own, so nothing needs a lock or a server, and what a dead node has
measured stays. Parquet is read with DuckDB, straight from where it lies.
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
    "power_cap", "partition", "driver", "benchmark_version",
)  # fmt: skip
"""Columns of a row; ``gpu`` is empty for a metric of the whole node."""

SYNC_PERIOD_S = 5.0
"""How often a journal is copied to a store that is not a folder."""

AGAIN = ".again"
"""Part of the name of a run that measures another run's suspects again."""

HEALTH = "health-"
"""Begins the name of a run that is one node's check of itself."""

BASELINE = "baseline.json"
"""File of a store that holds the baseline of its nodes."""

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RunRecord(RenamedRecord):
    """One run of a fleet, from the moment it begins."""

    old_names: ClassVar[Mapping[str, str]] = {"launcher": "engine"}

    run: str
    date_utc: str
    level: CheckLevel
    launcher: str
    nodes: tuple[str, ...]
    """Nodes to be measured; empty where only the launcher knows them."""
    finished: bool = False
    lost: dict[str, str] = Field(default_factory=dict)
    """Reason by node, for the nodes without a result."""


@dataclass
class Store:
    """A store, opened.

    Parameters
    ----------
    url : str
        A folder, or anything that fsspec opens (``s3://bucket/fleet``).

    Raises
    ------
    InputError
        If nothing that is installed opens it.
    """

    url: str
    _fs: Any = field(init=False, repr=False)
    _root: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"cannot be opened ({error})", where=self.url, remedy="give a folder, or a URL"
            ) from error

    @property
    def is_folder(self) -> bool:
        """Whether it lies on a file system of this machine."""
        protocol = self._fs.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def _path(self, *parts: str) -> str:
        return str(PurePosixPath(self._root, *parts))

    def exists(self) -> bool:
        """Whether there is anything in it."""
        return bool(self._fs.exists(self._root))

    def write(self, data: bytes, *parts: str) -> None:
        """Write a file, whole or not at all.

        Raises
        ------
        InputError
            If the store cannot be written.
        """
        path = self._path(*parts)
        try:
            self._fs.makedirs(self._path(*parts[:-1]), exist_ok=True)
            if not self.is_folder:  # an object store shows an object when it is complete
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
        """A file's content; None if there is none."""
        try:
            return bytes(self._fs.cat_file(self._path(*parts)))
        except FileNotFoundError:
            return None

    def names(self, *parts: str) -> list[str]:
        """Names of what lies in a folder of the store, sorted."""
        try:
            self._fs.invalidate_cache()
            paths = self._fs.ls(self._path(*parts), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(PurePosixPath(p).name for p in paths)

    @contextlib.contextmanager
    def folder(self, *parts: str) -> Iterator[Path]:
        """A folder of the store to append to; a copy that is kept in step where it is elsewhere."""
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
        """Remove a folder of the store, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(*parts), recursive=True)

    def write_rows(self, run: str, node: str, rows: pd.DataFrame) -> None:
        """Write a node's numbers: from now on it is done."""
        data = rows.reindex(columns=list(COLUMNS)).to_parquet(None, index=False)
        self.write(data, "rows", run, f"{file_name(node)}.parquet")

    def nodes_done(self, run: str) -> list[str]:
        """Nodes whose numbers are there."""
        names = self.names("rows", run)
        return [urllib.parse.unquote(n.removesuffix(".parquet")) for n in names
                if n.endswith(".parquet")]  # fmt: skip

    def write_run(self, record: RunRecord) -> None:
        """Write down what a run is."""
        self.write(record.model_dump_json(indent=1).encode(), "runs", f"{record.run}.json")

    def runs(self) -> list[RunRecord]:
        """All runs, the oldest first."""
        records = []
        for name in self.names("runs"):
            data = self.read("runs", name)
            if data is not None and name.endswith(".json"):
                try:
                    records.append(RunRecord.model_validate_json(data))
                except ValueError as error:
                    raise InputError(
                        "is not the record of a run", where=self._path("runs", name)
                    ) from error
        return sorted(records, key=lambda r: (r.date_utc, r.run))

    def query(self, sql: str) -> pd.DataFrame:
        """Ask the store: ``measurements`` is the table of all rows of all runs.

        Parameters
        ----------
        sql : str
            In DuckDB's dialect.

        Raises
        ------
        InputError
            If the store is empty or the question is not understood.
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
                    raise InputError("that asks for nothing", where="--sql", remedy="SELECT ...")
                frame: pd.DataFrame = answer.df()
                return frame
            except duckdb.Error as error:
                reason = str(error).split("\n")[0]
                raise InputError(f"cannot be asked that ({reason})", where=self.url) from error

    def _rows_pattern(self) -> str:
        """Every file of rows; brackets in the store's own name are no pattern."""
        return f"{glob.escape(self._root)}/rows/*/*.parquet"

    def _source(self, connection: "duckdb.DuckDBPyConnection") -> str:
        pattern = self._rows_pattern().replace("'", "''")
        if self.is_folder:
            return pattern
        connection.register_filesystem(self._fs)
        return str(self._fs.unstrip_protocol(pattern))

    def rows(self, runs: Sequence[str] = ()) -> pd.DataFrame:
        """Numbers of some runs, or of all, in a fixed order."""
        names = ", ".join("'" + r.replace("'", "''") + "'" for r in runs)
        where = f"WHERE run IN ({names})" if runs else ""
        return self.query(
            f"SELECT {', '.join(COLUMNS)} FROM measurements {where} "
            "ORDER BY date_utc, run, node, gpu NULLS FIRST, metric"
        )


def check_run_name(name: str) -> str:
    """A run's name, if it can be one.

    Raises
    ------
    InputError
        If it could be no file name.
    """
    if not RUN_NAME.fullmatch(name):
        raise InputError(f"'{name}' cannot name a run", remedy="letters, digits, . _ and -")
    return name


def newest_run(store: Store) -> str:
    """The newest run that is not a confirmation.

    Raises
    ------
    InputError
        If there is none.
    """
    runs = [r.run for r in store.runs() if AGAIN not in r.run]
    if not runs:
        raise InputError("no run has been made", where=store.url, remedy="groundspeed fleet run")
    return runs[-1]
