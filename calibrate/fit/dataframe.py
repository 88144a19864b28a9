"""Fit laws to a pandas DataFrame and predict times for another one, in microseconds.

Each combination of data type, library and other config key columns gets a law of its own.

law = fit_law("matmul", measured, device="h200-sxm")   # columns dtype, m, n, k, time_us
law.predict(shapes)                                    # time_us, low_us, high_us, origin
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from groundspeed.calibrate.fit.dispatch import fit_columns
from groundspeed.profiles.datasheet import DeviceSpec, find_device
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.laws import Law, law_time
from groundspeed.profiles.operations import OPERATIONS, OPTIONAL_CATEGORIES


@dataclass(frozen=True)
class FittedLaw:
    """The laws of one operation: one for each config key among the fitted rows."""

    operation: str
    laws: tuple[Law, ...]

    def predict(self, cases: pd.DataFrame) -> pd.DataFrame:
        """Predict the time of each row.

        Parameters
        ----------
        cases : DataFrame
            The operation's columns, plus each config key column (``dtype``, ``library``, ...) in
            which the fitted laws differ.

        Returns
        -------
        DataFrame
            ``time_us``, ``low_us``, ``high_us`` (90 % interval of one new measurement) and
            ``origin`` (the law's origin, or ``extrapolated`` outside the fit range). The index is
            the same as that of ``cases``.

        Raises
        ------
        InputError
            If a column is missing, or no law was fitted for the config key of a row.
        """
        columns = OPERATIONS[self.operation].columns
        cases = add_derived_columns(self.operation, cases)
        _require_columns(cases, columns, self.operation)
        count = len(cases)
        time_us, low_us, high_us = (np.full(count, np.nan) for _ in range(3))
        origin = np.full(count, "", dtype=object)
        done = np.zeros(count, dtype=bool)
        for law in self.laws:
            rows = self._rows_of(law, cases)
            if not rows.any():
                continue
            whole = bool(rows.all())
            part = cases if whole else cases.loc[rows]
            prediction = law_time(law, {c: part[c].to_numpy(dtype=float) for c in columns})
            time_us[rows] = prediction.time_s * 1e6
            low_us[rows] = prediction.low_s * 1e6
            high_us[rows] = prediction.high_s * 1e6
            origin[rows] = np.where(prediction.extrapolated, "extrapolated", law.origin)
            done |= rows
        if not done.all():
            row = cases.loc[~done].iloc[0].to_dict()
            raise InputError(f"no {self.operation} law was fitted for the row {row}")
        return pd.DataFrame(
            {"time_us": time_us, "low_us": low_us, "high_us": high_us, "origin": origin},
            index=cases.index,
        )

    def _rows_of(self, law: Law, cases: pd.DataFrame) -> NDArray[np.bool_]:
        """Return a mask of the rows that match the config key of a law.

        A config key column that is missing from ``cases`` is ignored if all laws agree in it.
        """
        rows = np.ones(len(cases), dtype=bool)
        for name, value in law.config_key.items():
            if name not in cases.columns:
                if len({other.config_key.get(name) for other in self.laws}) > 1:
                    raise InputError(f"{self.operation} cases lack the column '{name}'")
                continue
            column = cases[name]
            wanted: str | float = float(value) if is_numeric_dtype(column) else value
            rows &= (column == wanted).to_numpy()
        return rows


def fit_law(
    operation: str, measured: pd.DataFrame, device: str | DeviceSpec | None, *, seed: int = 0
) -> FittedLaw:
    """Fit the laws of an operation to measured rows.

    Parameters
    ----------
    operation : str
        Name of an operation, e.g. ``matmul``, ``attention_prefill``, ``attention_decode``,
        ``stream`` or ``elementwise``.
    measured : DataFrame
        The operation's columns and ``time_us``. Each combination of its config key columns
        (``dtype``, ``library``, ...) gets a law of its own.
    device : str, DeviceSpec or None
        The device that was measured, by name or datasheet. None: a device without a datasheet,
        such as a CPU.
    seed : int, default 0
        Random seed of cross-validation and bootstrap. Used by the soft roofline only.

    Raises
    ------
    InputError
        If the operation or device is unknown, a column is missing, or a config key has too few
        rows.
    """
    if operation not in OPERATIONS:
        raise InputError(
            f"unknown operation '{operation}'", remedy=did_you_mean(operation, OPERATIONS)
        )
    spec = find_device(device).spec if isinstance(device, str) else device
    operation_spec = OPERATIONS[operation]
    measured = add_derived_columns(operation, measured)
    _require_columns(
        measured, (*operation_spec.columns, *operation_spec.categories, "time_us"), operation
    )
    names = config_key_columns(operation, measured)
    laws = []
    for values, group in measured.groupby(names, sort=True):
        config_key = {n: str(v) for n, v in zip(names, values, strict=True)}
        columns = {c: group[c].to_numpy(dtype=float) for c in operation_spec.columns}
        time_s = group["time_us"].to_numpy(dtype=float) * 1e-6
        source = f"{len(group)} rows of {spec.id if spec else 'a device without a datasheet'}"
        law = fit_columns(
            operation, config_key, columns, time_s,
            datasheet=spec, on_cpu=False, origin="measured", source=source, seed=seed,
        )  # fmt: skip
        laws.append(law)
    return FittedLaw(operation, tuple(laws))


def add_derived_columns(operation: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with columns added that can be computed from others.

    For ``mla_decode``, ``kv_len`` is ``seq_len + step``, because published tables hold the prompt
    length and the number of decode steps since.
    """
    if operation == "mla_decode" and "kv_len" not in frame and {"seq_len", "step"} <= {*frame}:
        return frame.assign(kv_len=frame["seq_len"] + frame["step"])
    return frame


def config_key_columns(operation: str, frame: pd.DataFrame) -> list[str]:
    """Return a frame's config key columns; each combination of their values gets a law."""
    categories = OPERATIONS[operation].categories
    return [c for c in dict.fromkeys((*categories, *OPTIONAL_CATEGORIES)) if c in frame.columns]


def _require_columns(frame: pd.DataFrame, columns: tuple[str, ...], operation: str) -> None:
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise InputError(f"{operation} rows lack the column {', '.join(missing)}")
