"""The Python API: the functions that ``import groundspeed as gs`` offers.

    import groundspeed as gs

    profile = gs.load_profile("h200")            # a file, a profile id or a GPU name
    gs.estimate("qwen2.5-32b", gpu="h20").plot()
    gs.sweep("mixtral-8x7b", gpu="h200", tp=2, concurrency=[1, 8, 64]).plot()
    gs.screen("fleet.csv").to_pandas()

Every result is a typed object that a notebook displays as a table
(:mod:`groundspeed.display.notebook`). Errors are raised as :class:`groundspeed.InputError`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from groundspeed.display.notebook import Estimate, Estimates, FleetScreening, MeasuredProfile
from groundspeed.estimating.load import load_of
from groundspeed.estimating.parsing import parse_rate
from groundspeed.estimator import Workload, find_model
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.engines.own_engine import engine_of, find_own_engine
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.serving.speculation import speculate
from groundspeed.estimator.serving.workload import Kind
from groundspeed.estimator.traffic.read_trace import read_trace
from groundspeed.profiles.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from groundspeed.estimator.backtest.backtest import RowResult
    from groundspeed.estimator.decisions.audit import Audit
    from groundspeed.estimator.decisions.compare import ServingComparison
    from groundspeed.estimator.decisions.plan_records import Plan
    from groundspeed.fleet.screen.request import Served

__all__ = [
    "audit",
    "backtest",
    "compare",
    "estimate",
    "find_hardware",
    "load_profile",
    "plan",
    "run_calibration",
    "screen",
    "sweep",
]


def load_profile(name: str | Path) -> MeasuredProfile:
    """Load a profile by file, id or GPU name.

    Parameters
    ----------
    name : str or Path
        Path of a profile file, id of a profile you measured, or name of a GPU (``h200``). A GPU
        name loads the newest profile measured on that GPU, else the profile that ships for it.

    Raises
    ------
    InputError
        If there is no such profile, or only a datasheet of the GPU is known.
    """
    hardware = find_hardware(str(name))
    if hardware.profile is None:
        raise InputError(f"only a datasheet of '{name}' is known, not a profile")
    return MeasuredProfile.model_construct(**dict(hardware.profile))


def run_calibration(
    device: str | None = None,
    mode: Literal["quick", "standard", "full"] = "quick",
    *,
    folder: Path | None = None,
    quiet: bool = False,
) -> MeasuredProfile:
    """Measure a device of this machine and save its profile.

    Parameters
    ----------
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:N``. Default: the first GPU, else the CPU.
    mode : {'quick', 'standard', 'full'}, default 'quick'
        How much to measure: ``quick`` takes about a minute, ``full`` about 15 minutes.
    folder : Path, optional
        Folder to save the profile in. Default: ``$XDG_DATA_HOME/groundspeed/profiles``.
    quiet : bool, default False
        True hides the progress bar.

    Raises
    ------
    InputError
        If the device cannot be measured, or the profile fails the physics check.
    """
    from groundspeed.measuring.session import calibrate_and_save, open_running_device
    from groundspeed.profiles.store import profile_folder

    running = open_running_device(device)
    profile, _ = calibrate_and_save(running, mode, folder or profile_folder(), quiet=quiet)
    return MeasuredProfile.model_construct(**dict(profile))


def estimate(
    model: str,
    *,
    gpu: str,
    prompt_tokens: int = 1024,
    output_tokens: int = 1024,
    batch: int | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
    trace: str | Path | None = None,
    engine: str | None = None,
    engine_version: str = "",
    engine_profile: str | None = None,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    dp: int = 1,
    replicas: int = 1,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    length_low: float = 1.0,
    length_high: float = 1.0,
    num_prompts: int | None = None,
    cached: float | None = None,
    draft_tokens: int = 0,
    acceptance: float | None = None,
    draft: str | None = None,
    token_budget: int | None = None,
    max_sequences: int | None = None,
    memory_fraction: float | None = None,
    max_model_len: int | None = None,
    gpus_per_node: int | None = None,
    inter_node: str | None = None,
    gpu_link: str | None = None,
    slo: tuple[float, float] | None = None,
    price: float | None = None,
    profile_dir: Path | None = None,
) -> Estimate:
    """Predict latency and throughput of a static batch, or of a server under load.

    Parameters
    ----------
    model : str
        Shipped name (``qwen2.5-32b``), hub name or path of a ``config.json``.
    gpu : str
        Name of a GPU (``h20``), or id or file of a profile. All profiles of a GPU are joined; what
        was never measured comes from the shipped profile, else from the datasheet.
    prompt_tokens, output_tokens : int, default 1024
        Input and output length of each sequence.
    batch : int, optional
        Number of sequences of a static batch. Default: 1, if no load of a server is given.
    concurrency : int, optional
        Number of clients of a server in a closed loop.
    rate : float, optional
        Arrival rate of an open loop [requests/s].
    trace : str or Path, optional
        File of recorded requests (see ``estimate --trace``); they have their own lengths.
    engine : {'vllm', 'sglang', 'trtllm', 'atom', 'bare'}, optional
        Default: ``vllm`` for a server, ``bare`` (no engine) for a static batch.
    engine_profile : str, optional
        Name or file of an engine that was calibrated on a live server.
    engine_version : str, default ''
        Version of the engine. Default: the newest whose constants are known.
    tp, pp, ep, dp, replicas : int, default 1
        Tensor, pipeline and expert parallelism, data parallelism of attention, and independent
        copies of the deployment.
    dtype, kv_dtype : str, optional
        Data type of the weights and of the KV cache. Default: the checkpoint's.
    length_low, length_high : float, default 1
        Lengths are uniform between these fractions of the nominal ones.
    num_prompts : int, optional
        Number of requests of the whole benchmark. Default: ten per client.
    cached : float, optional
        Fraction of each prompt that is already in the prefix cache. Default: 0, or what a trace
        says.
    draft_tokens : int, default 0
        Number of tokens that speculative decoding drafts per sequence and step.
    acceptance : float, optional
        Probability that a draft token is accepted, given that those before it were. Not given:
        what published servers reach, with its range.
    draft : str, optional
        What drafts: ``head`` (the default), ``ngram``, or the name of a draft model.
    token_budget, max_sequences : int, optional
        Limits of the engine. Default: its own.
    memory_fraction : float, optional
        Fraction of the device memory that the engine uses. Default: its own.
    max_model_len : int, optional
        Longest request that the cache must hold [tokens]. Default: the longest of the load.
    gpus_per_node : int, optional
        GPUs of a node. Default: by the datasheet (72 in an NVL72), else 8.
    inter_node, gpu_link : str, optional
        Rate of one GPU between nodes, and to the others of its node, in one direction, with a unit:
        ``"400Gb/s"``, ``"50GB/s"``. Default: measured, else of the vendor's reference system.
    slo : (float, float), optional
        Limits of TTFT and TPOT [s], for the goodput.
    price : float, optional
        Price of one GPU-hour, for the cost of a million output tokens.
    profile_dir : Path, optional
        Folder of measured profiles. Default: ``$XDG_DATA_HOME/groundspeed/profiles``.

    Raises
    ------
    InputError
        If a name is unknown, the load is impossible or contradictory, or the model does not fit.
    """
    if sum(x is not None for x in (batch, concurrency, rate, trace)) > 1:
        raise InputError(
            "batch (static), concurrency (closed loop), rate and trace (open loop) exclude each "
            "other",
            remedy="give one of them",
        )
    given = {
        "--batch": batch, "--concurrency": concurrency, "--rate": rate, "--trace": trace,
        "--engine": engine,
        "--engine-version": engine_version or None, "--num-prompts": num_prompts, "--slo": slo,
        "--max-sequences": max_sequences, "--token-budget": token_budget,
        "--memory-fraction": memory_fraction, "--max-model-len": max_model_len,
        "--length-low": length_low if length_low != 1.0 else None,
        "--length-high": length_high if length_high != 1.0 else None,
        "--draft-tokens": draft_tokens or None, "--acceptance": acceptance,
        "--draft": draft,
    }  # fmt: skip
    load = load_of([name for name, value in given.items() if value is not None])
    if slo is not None and not all(limit > 0.0 for limit in slo):
        raise InputError(f"the limits of TTFT and TPOT must be above 0 s, not {slo}", where="slo")
    kinds: dict[str, Kind] = {"static": "static", "closed": "closed", "open": "poisson"}
    kind = kinds[load]
    clients = 1
    if concurrency is not None or batch is not None:
        clients = concurrency if concurrency is not None else (batch or 0)
    options = ServerOptions(
        tp=tp, pp=pp, ep=ep, dp=dp, replicas=replicas, dtype=dtype, kv_dtype=kv_dtype,
        engine=engine_of(engine_profile, engine, "bare" if kind == "static" else "vllm"),
        engine_version=engine_version, engine_profile=engine_profile,
        token_budget=token_budget, max_sequences=max_sequences,
        memory_fraction=memory_fraction, max_model_len=max_model_len,
        gpus_per_node=gpus_per_node,
        inter_node_bytes_per_s=parse_rate(inter_node, "inter_node"),
        gpu_link_bytes_per_s=parse_rate(gpu_link, "gpu_link"),
    )  # fmt: skip
    server = build_server(model, gpu, options, profile_dir=profile_dir)
    recorded = None
    if trace is not None:
        recorded = read_trace(Path(trace))
        kind = "trace"
        prompt_tokens = max(1, round(recorded.mean_prompt_tokens))
        output_tokens = max(1, round(recorded.mean_output_tokens))
    workload = Workload(
        prompt_tokens, output_tokens, clients, kind, length_low, length_high,
        num_prompts, rate, cached_share=cached, trace=recorded,
    )  # fmt: skip
    workload = speculate(workload, draft_tokens, acceptance, draft or "head")
    prediction = server.predict(workload, slo=slo, price_per_hour=price)
    return Estimate.model_construct(**dict(prediction))


def sweep(
    model: str,
    *,
    concurrency: Sequence[int] = (1, 4, 16, 64),
    **options: Any,  # noqa: ANN401  (those of estimate, which checks them)
) -> Estimates:
    """Predict a server at several concurrencies.

    Parameters
    ----------
    model : str
        As in :func:`estimate`.
    concurrency : sequence of int, default (1, 4, 16, 64)
        Numbers of clients; one prediction is made for each.
    **options
        As in :func:`estimate`; ``gpu`` is required.

    Raises
    ------
    InputError
        As :func:`estimate`.
    """
    if not concurrency:
        raise InputError("there is no concurrency to predict", where="concurrency")
    return Estimates(
        predictions=tuple(estimate(model, concurrency=n, **options) for n in concurrency)
    )


def plan(
    model: str,
    *,
    gpu: str | Sequence[str],
    gpus: int = 8,
    prompt_tokens: int = 1024,
    output_tokens: int = 1024,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    slo: str | None = None,
    engine: str | None = None,
    engine_version: str = "",
    engine_profile: str | None = None,
    price: float | Sequence[float] | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    length_low: float = 1.0,
    length_high: float = 1.0,
    cached: float = 0.0,
    draft_tokens: int = 0,
    acceptance: float | None = None,
    draft: str | None = None,
    token_budget: int | None = None,
    max_sequences: int | None = None,
    memory_fraction: float | None = None,
    max_model_len: int | None = None,
    gpus_per_node: int | None = None,
    inter_node: str | None = None,
    gpu_link: str | None = None,
    pools: bool = True,
    profile_dir: Path | None = None,
) -> "Plan":
    """Find the cheapest deployment of a model that meets latency limits.

    Parameters
    ----------
    model : str
        As in :func:`estimate`.
    gpu : str or sequence of str
        GPUs to choose among.
    gpus : int, default 8
        Number of available GPUs of each kind.
    prompt_tokens, output_tokens : int, default 1024
        Input and output length of each request.
    ttft_s, tpot_s : float, optional
        Limits of mean TTFT and TPOT [s]. Default: no limit.
    slo : str, optional
        More limits in ms, on means or percentiles: ``"ttft_p99=2000"``.
    engine, engine_version, engine_profile, dtype, kv_dtype, length_low, length_high, cached
        As in :func:`estimate`.
    draft_tokens, acceptance, draft, token_budget, max_sequences, memory_fraction
        As in :func:`estimate`.
    max_model_len, profile_dir
        As in :func:`estimate`.
    gpus_per_node, inter_node, gpu_link
        As in :func:`estimate`; they hold for the deployments that use them.
    pools : bool, default True
        Whether separate pools for prefill and decode are tried, too.
    price : float or sequence of float, optional
        Price of one GPU-hour, of each GPU. Default: the plan with the most tokens/s per GPU wins.

    Raises
    ------
    InputError
        If nothing fits, or a limit or price is not positive.
    """
    from groundspeed.estimator.decisions.objective import Limit, parse_limits
    from groundspeed.estimator.decisions.placements import Formats
    from groundspeed.estimator.decisions.plan import make_plan, served_as
    from groundspeed.estimator.decisions.plan_records import Candidate, Request

    names = [gpu] if isinstance(gpu, str) else list(gpu)
    prices = [price] * len(names) if price is None or isinstance(price, int | float) else price
    if len(prices) != len(names):
        raise InputError(f"{len(prices)} prices for {len(names)} GPUs", where="price")
    options = ServerOptions(
        engine=engine_of(engine_profile, engine, "vllm"), engine_version=engine_version,
        engine_profile=engine_profile, token_budget=token_budget,
        max_sequences=max_sequences, memory_fraction=memory_fraction, max_model_len=max_model_len,
        gpus_per_node=gpus_per_node,
        inter_node_bytes_per_s=parse_rate(inter_node, "inter_node"),
        gpu_link_bytes_per_s=parse_rate(gpu_link, "gpu_link"),
    )  # fmt: skip
    candidates = []
    for name, each in zip(names, prices, strict=True):
        found = find_hardware(name, profile_dir=profile_dir)
        candidates.append(Candidate(name, found.best, options.engine_on(found), gpus, each))
    workload = Workload(
        prompt_tokens, output_tokens, length_low=length_low, length_high=length_high,
        cached_share=cached,
    )  # fmt: skip
    workload = speculate(workload, draft_tokens, acceptance, draft or "head")
    limits = list(parse_limits(slo))
    for metric, seconds in (("ttft", ttft_s), ("tpot", tpot_s)):
        if seconds is None:
            continue
        if not seconds > 0.0:
            raise InputError(f"the limit of {metric.upper()} must be above 0 s, not {seconds}")
        limits.append(Limit("ttft" if metric == "ttft" else "tpot", "mean", seconds))
    return make_plan(
        Request(
            find_model(model),
            candidates,
            workload,
            tuple(limits),
            Formats(dtype, kv_dtype, options.deployment.network),
            served_as(model),
            pools,
        )
    )


def compare(
    model: str,
    options: Mapping[str, Mapping[str, Any]],
    *,
    prompt_tokens: int = 1024,
    output_tokens: int = 1024,
    concurrency: Sequence[int] = (1, 8, 64),
    length_low: float = 1.0,
    length_high: float = 1.0,
    profile_dir: Path | None = None,
) -> "ServingComparison":
    """Compare deployments of a model: which one wins at each load.

    Parameters
    ----------
    model : str
        As in :func:`estimate`.
    options : mapping of str to mapping
        Each deployment by its name: ``gpu``, and optionally ``price`` and the fields of
        ``ServerOptions`` in ``estimator.deployment.build_server`` (``tp``, ``engine``, ...).
    prompt_tokens, output_tokens : int, default 1024
        Input and output length of each request.
    concurrency : sequence of int, default (1, 8, 64)
        Numbers of clients.
    length_low, length_high, profile_dir
        As in :func:`estimate`.

    Raises
    ------
    InputError
        If there are fewer than two options, or one has an unknown field or cannot be served.

    Examples
    --------
    >>> result = compare("llama-3.1-8b", {"a": {"gpu": "h100"}, "b": {"gpu": "h200"}},
    ...                  concurrency=[64])
    >>> result.options
    ('a', 'b')
    """
    from dataclasses import fields

    from groundspeed.estimator.decisions.compare import Option, compare_servers

    known = {f.name for f in fields(ServerOptions)} | {"gpu", "price"}
    if not concurrency:
        raise InputError("there is no concurrency to compare", where="concurrency")
    servers = []
    for name, values in options.items():
        price = values.get("price")
        if price is not None and not 0 < price < 10_000:
            raise InputError(f"the price of option '{name}' must be above 0, not {price}")
        for key in values:
            if key not in known:
                raise InputError(
                    f"unknown field '{key}' of option '{name}'", remedy=did_you_mean(key, known)
                )
        if "gpu" not in values:
            raise InputError(f"option '{name}' has no gpu")
        chosen = ServerOptions(**{k: v for k, v in values.items() if k not in ("gpu", "price")})
        server = build_server(model, values["gpu"], chosen, profile_dir=profile_dir)
        servers.append(Option(name, server, values.get("price")))
    workload = Workload(
        prompt_tokens, output_tokens, length_low=length_low, length_high=length_high
    )
    return compare_servers(servers, workload, list(concurrency))


def audit(
    model: str,
    *,
    gpu: str,
    tokens_per_s: float,
    counts: Literal["total", "output"] | None = None,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
    concurrency: int | None = None,
    gpus: int | None = None,
    dtype: str | None = None,
    engine: str = "sglang",
    engine_version: str = "",
    profile_dir: Path | None = None,
) -> "Audit":
    """Check whether a published throughput is complete and possible, and what it means.

    Parameters
    ----------
    model, gpu
        As in :func:`estimate`.
    tokens_per_s : float
        The claimed rate, of all GPUs together.
    counts : {'total', 'output'}, optional
        Tokens that the rate counts. Default: not stated, both readings are shown.
    prompt_tokens, output_tokens, concurrency, gpus, dtype : optional
        Conditions of the claim. Default: not stated.
    engine, engine_version, profile_dir
        As in :func:`estimate`.

    Raises
    ------
    InputError
        If the rate is not positive, or the prediction cannot be made.
    """
    from groundspeed.estimator.decisions.audit import Claim, audit_claim

    found = find_hardware(gpu, profile_dir=profile_dir)
    claim = Claim(
        tokens_per_s, find_model(model), gpu, counts, prompt_tokens, output_tokens, concurrency,
        gpus, dtype,
    )  # fmt: skip
    chosen = ServerOptions(engine=engine, engine_version=engine_version).engine_on(found)
    return audit_claim(claim, found.best, found.spec, chosen)


def backtest(
    source: "str | Path | pd.DataFrame",
    *,
    engine_profile: str | None = None,
    profile_dir: Path | None = None,
) -> "list[RowResult]":
    """Predict every row of a table of measurements.

    Parameters
    ----------
    source : str, Path or DataFrame
        A CSV file or the result of a load tool, or a table with the same columns: ``model``,
        ``gpu``, ``isl``, ``osl``, ``batch_or_concurrency`` and measured metrics such as
        ``tpot_ms``.
    engine_profile : str, optional
        Name or file of a calibrated engine, whose constants are used for its rows.
    profile_dir : Path, optional
        Folder of measured profiles. Default: ``$XDG_DATA_HOME/groundspeed/profiles``.

    Returns
    -------
    list of RowResult
        Prediction, interval and measurement of each row, or why it was skipped;
        :func:`groundspeed.estimator.backtest.backtest.summarize` turns them into errors.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    from groundspeed.estimator.backtest.backtest import backtest as run_backtest
    from groundspeed.estimator.backtest.columns import read_measurements

    if isinstance(source, str | Path):
        rows = read_measurements(Path(source))
    else:
        texts = source.astype("string").fillna("").to_dict("records")
        rows = [{str(k): str(v) for k, v in row.items()} for row in texts]
    return run_backtest(
        rows, lambda name: find_hardware(name, profile_dir=profile_dir).best,
        own=find_own_engine(engine_profile) if engine_profile else None,
    )  # fmt: skip


def screen(
    source: "str | Path | Sequence[str] | pd.DataFrame",
    *,
    lower_is_better: Sequence[str] = (),
    reference: str | None = None,
    served: "Served | None" = None,
) -> FleetScreening:
    """Find the GPUs and nodes of a fleet that are slower than the others of their class.

    Parameters
    ----------
    source : str, Path, sequence of str or DataFrame
        CSV files, folders of profiles, a store of runs (folder or URL), or a table with the
        columns ``node``, ``gpu``, ``metric`` and ``value``.
    lower_is_better : sequence of str
        Names of metrics for which a lower value is better. Not needed for times, which are
        recognized by their name or unit.
    reference : str, optional
        GPU or profile whose rates, less 10 %, are the lowest that a GPU may reach. Default: GPUs
        are compared with each other only.
    served : Served, optional
        Deployment for which the cost of each finding is predicted. Default: no cost.

    Raises
    ------
    InputError
        If the source cannot be read or holds nothing that can be judged.
    """
    from groundspeed.fleet.screen.request import ScreenRequest, screen_dataframe, screen_sources

    if isinstance(source, str | Path):
        sources: Sequence[str] = [str(source)]
    elif isinstance(source, Sequence):
        sources = [str(s) for s in source]
    else:
        request = ScreenRequest(
            (), lower_is_better=lower_is_better, reference=reference, served=served
        )
        return FleetScreening.model_construct(**dict(screen_dataframe(source, request)))
    _, screening = screen_sources(
        ScreenRequest(sources, lower_is_better=lower_is_better, reference=reference, served=served)
    )
    return FleetScreening.model_construct(**dict(screening))
