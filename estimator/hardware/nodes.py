"""Collectives over more than one node: inside a node as measured, between nodes over the network.

A collective over N nodes of L devices goes through three steps: the devices of each node combine
their data, each device exchanges its L-th part with its partners in the other nodes, and the
devices of a node share the result:

    all_reduce(S) = all_reduce of L devices + latency x log2 N + 2 (N - 1) / N x S / L / rate

The step inside the node has a law; the network is measured (a law for as many ranks on several
hosts, or the rate of a link by perftest), given by the user (``--inter-node 400Gb/s``), or that of
the vendor's reference system. What has no law has a wide interval: 10 to 40 us, 60 to 95 % of the
line rate.

Experts over more devices than one node exchange tokens with all-to-all kernels. Their rates are
DeepEP's: 287 and 252 GB/s on NVLink (floors of 8 and 9 us), 85, 58 and 50 GB/s over 2, 4 and 8
nodes with 400 Gb/s (low-latency kernels, H200; tables of aiconfigurator).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from groundspeed.estimator.deployment.deployment import Network
from groundspeed.estimator.graph.operator import Operator
from groundspeed.estimator.hardware.hardware import Hardware, OperatorTime
from groundspeed.profiles.busbw import bus_factor
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import Array

DEVICES_PER_NODE = 8
"""Devices that share fast links where the datasheet says nothing else."""

ACHIEVED, ACHIEVED_LOW, ACHIEVED_HIGH = 0.88, 0.6, 0.95
"""Share of the line rate that large messages reach: 46 to 48 of 50 GB/s on InfiniBand
(nccl-tests#290), 43 in DeepEP's published table; a badly set network reaches less."""

LATENCY_S, LATENCY_LOW_S, LATENCY_HIGH_S = 15e-6, 8e-6, 40e-6
"""[s] What a small collective takes longer over two nodes than in one: NCCL's own model gives 26 us
for 16 ranks on two nodes of H100 (nccl#1453), one node takes 12; two GB10 over RoCE take 30."""

LOCAL_ACHIEVED, LOCAL_ACHIEVED_LOW, LOCAL_ACHIEVED_HIGH = 0.65, 0.4, 0.95
"""Share of the line rate that collectives reach over PCIe or an unmeasured link: copies through the
host of two RTX 4090 reach 40 to 80 % of theirs."""

LOCAL_LATENCY_S = 8e-6
"""[s] Start of a collective of the library inside a node, for each doubling of the ranks: 12 to 26
us for eight ranks in logs of nccl-tests (H20, H100)."""

ALL_TO_ALL = ((1, 287e9, 8.1e-6), (2, 85e9, 20e-6), (4, 58e9, 20e-6), (8, 50e9, 20e-6))
"""Nodes, bytes per second of one device, floor [s] of DeepEP's low-latency dispatch."""

PUBLISHED_LINK = 50e9
"""[bytes/s] Rate between the nodes of :data:`ALL_TO_ALL`: 400 Gb/s."""

PUBLISHED_NVLINK = 450e9
"""[bytes/s] Rate inside the node of :data:`ALL_TO_ALL`."""

ALL_TO_ALL_FASTER, ALL_TO_ALL_SLOWER = 1.2, 2.0
"""Factors between the rates of :data:`ALL_TO_ALL` and those of other kernels on InfiniBand, over 2
and 4 nodes: 63 and 48 GB/s on H800 (DeepEP's README), 74 and 60 or 55 and 30 on MI300X (README of
ROCm/mori, kernels for throughput and for latency). On EFA they reach a third (33 and 19, same)."""

Origin = Literal["given", "measured", "reference system"]


@dataclass(frozen=True)
class NodeLink:
    """The network between nodes, as one device sees it."""

    bandwidth_bytes_per_s: float
    """[bytes/s] Line rate of one device in one direction."""
    origin: Origin

    def __str__(self) -> str:
        rate = f"{8e-9 * self.bandwidth_bytes_per_s:.0f} Gb/s for each device"
        as_in = "as in the reference system"
        return f"{rate}, {as_in if self.origin == 'reference system' else f'as {self.origin}'}"


@dataclass(frozen=True)
class Nodes:
    """Devices in nodes: knows collectives over several nodes, and asks the device for all else."""

    device: Hardware
    per_node: int
    link: NodeLink | None = None
    device_link_bytes_per_s: float | None = None
    """[bytes/s] Line rate inside a node, if it is given."""

    @property
    def id(self) -> str:
        """Name of the profile or datasheet."""
        return self.device.id

    @property
    def origin(self) -> str:
        """Origin of the times of the device."""
        return self.device.origin

    @property
    def datasheet(self) -> DeviceSpec | None:
        """Datasheet of the device."""
        return self.device.datasheet

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        return self.device.memory_bytes

    @property
    def last_level_cache_bytes(self) -> float | None:
        """Of the device."""
        return self.device.last_level_cache_bytes

    @property
    def network_bytes_per_s(self) -> float | None:
        """Of the device."""
        return self.device.network_bytes_per_s

    @property
    def architecture(self) -> str:
        """Of the device."""
        return self.device.architecture

    @property
    def power(self) -> tuple[float, str] | None:
        """Of the device."""
        return self.device.power

    def spread_fraction(self, bound: str) -> float:
        """Of the device."""
        return self.device.spread_fraction(bound)

    def for_devices(self, count: int) -> "Nodes":
        """Return the hardware of a group of devices."""
        return replace(self, device=self.device.for_devices(count))

    def source(self, operator: Operator) -> str:
        """Return what answers for an operator."""
        if self._spans(operator):
            return f"the network ({self._link()})"
        if operator.operation == "collective":
            if operator.config_key["op"] == "alltoall":
                return "published all-to-all kernels (imported)"
            if self.device_link_bytes_per_s is not None:
                return "the link between devices (as given)"
        return self.device.source(operator)

    def modes(self, collective: Operator) -> tuple[tuple[str, ...], ...]:
        """Return the kernels that are known for a collective: none of their own over nodes."""
        return () if self._spans(collective) else self.device.modes(collective)

    def time(self, operator: Operator) -> OperatorTime:
        """Predict the time of an operator.

        Raises
        ------
        InputError
            If it needs a network of which nothing is known.
        """
        if operator.operation != "collective":
            return self.device.time(operator)
        if operator.config_key["op"] == "alltoall":
            return self._all_to_all(operator)
        if self._spans(operator):
            return self._over_nodes(operator)
        return self._inside(operator)

    def _inside(self, operator: Operator) -> OperatorTime:
        """Return the time of a collective inside a node."""
        if self.device_link_bytes_per_s is None:
            return self.device.time(operator)
        return link_time(operator, self.device_link_bytes_per_s, bound=self._is_bound)

    @property
    def _is_bound(self) -> bool:
        return self.device.origin == "datasheet"

    def _spans(self, operator: Operator) -> bool:
        """Return whether a collective goes over the network and has no law of its own."""
        if operator.operation != "collective":
            return False
        key = operator.config_key
        over = int(key["world_size"]) > self.per_node or "hosts" in key
        return over and not self.device.modes(operator.with_key(hosts=str(self._nodes(operator))))

    def _nodes(self, operator: Operator) -> int:
        key = operator.config_key
        return int(key.get("hosts", -(-int(key["world_size"]) // self.per_node)))

    def _link(self) -> NodeLink:
        if self.link is None:
            raise InputError(
                f"the network between nodes of {self.id} is not known",
                remedy="give its rate for each GPU, such as --inter-node 400Gb/s, or import a log "
                "of nccl-tests over several nodes",
            )
        return self.link

    def _over_nodes(self, operator: Operator) -> OperatorTime:
        nodes, ranks = self._nodes(operator), int(operator.config_key["world_size"])
        inside = max(1, ranks // nodes)
        op = operator.config_key["op"]
        link = self._link()
        zero = np.zeros_like(operator.columns["bytes"])
        low = mid = high = zero
        if inside > 1:
            within = replace(operator, config_key={"op": op, "world_size": str(inside)})
            known = self._inside(_nccl(within, self.device))
            mid, low, high = known.time_s, known.low_s, known.high_s
        # Each device carries its share of the node's data; rings and trees move factor x bytes.
        sent = operator.columns["bytes"] / inside * bus_factor(op, nodes)
        hops = math.ceil(math.log2(nodes))
        rate = link.bandwidth_bytes_per_s
        count = operator.count
        if self._is_bound:  # nothing is faster than the line rates, of which both can be in use
            least = np.maximum(low, count * sent / rate)
            return OperatorTime.of(least, bound="link")
        return OperatorTime.of(
            mid + count * (hops * LATENCY_S + sent / (ACHIEVED * rate)),
            low + count * (hops * LATENCY_LOW_S + sent / (ACHIEVED_HIGH * rate)),
            high + count * (hops * LATENCY_HIGH_S + sent / (ACHIEVED_LOW * rate)),
            bound="link",
        )

    def _all_to_all(self, operator: Operator) -> OperatorTime:
        nodes = self._nodes(operator)
        row = next((r for r in reversed(ALL_TO_ALL) if r[0] <= nodes), ALL_TO_ALL[0])
        rate, floor = row[1], row[2]
        if nodes > 1:
            rate *= self._link().bandwidth_bytes_per_s / PUBLISHED_LINK
        else:
            spec = self.datasheet
            wire = spec.scaleup_bandwidth_bytes_per_s if spec is not None else None
            rate *= wire.value / PUBLISHED_NVLINK if wire is not None else 1.0
        if self._is_bound:
            least: Array = operator.count * operator.columns["bytes"] / rate
            return OperatorTime.of(least, bound="link")
        time: Array = operator.count * (floor + operator.columns["bytes"] / rate)
        return OperatorTime.of(
            time, time / ALL_TO_ALL_FASTER, time * ALL_TO_ALL_SLOWER, bound="link"
        )


def link_time(operator: Operator, rate_bytes_per_s: float, *, bound: bool) -> OperatorTime:
    """Return the time of a collective over links of which only the line rate is known.

    Parameters
    ----------
    operator : Operator
        A collective.
    rate_bytes_per_s : float
        [bytes/s] Line rate of one device in one direction.
    bound : bool
        True: the time at the line rate, which nothing beats; False: an estimate with an interval.
    """
    factor = bus_factor(operator.config_key["op"], int(operator.config_key["world_size"]))
    least = operator.bytes * factor / rate_bytes_per_s
    if bound:
        return OperatorTime.of(least, bound="link")
    ranks = int(operator.config_key["world_size"])
    start = operator.count * math.ceil(math.log2(ranks))
    return OperatorTime.of(
        least / LOCAL_ACHIEVED + start * LOCAL_LATENCY_S,
        least / LOCAL_ACHIEVED_HIGH + start * LOCAL_LATENCY_S / 2.0,
        least / LOCAL_ACHIEVED_LOW + start * LOCAL_LATENCY_S * 2.0,
        bound="link",
        extrapolated=True,
    )


def _nccl(operator: Operator, device: Hardware) -> Operator:
    """Return a collective with the kernel of the library, which runs where nodes are several."""
    for modes in device.modes(operator):
        if "nccl" in modes:
            return operator.with_key(mode="nccl")
        if modes:
            return operator.with_key(mode=modes[0])
    return operator


def used_links(network: Network, nodes: Nodes, devices: int) -> Network:
    """Return the stated links that messages of a deployment go over."""
    alone = devices == 1
    return Network(
        None if alone else network.per_node,
        network.inter_node_bytes_per_s if devices > nodes.per_node else None,
        None if alone else network.device_link_bytes_per_s,
    )


def require_used(network: Network, nodes: Nodes, devices: int) -> None:
    """Reject a stated link that no message of the deployment goes over.

    Raises
    ------
    InputError
        If an option would have no effect.
    """
    one = "one device" if devices == 1 else f"{devices} devices in one node of {nodes.per_node}"
    used = used_links(network, nodes, devices)
    for option, stated, kept in (
        ("--inter-node", network.inter_node_bytes_per_s, used.inter_node_bytes_per_s),
        ("--gpu-link", network.device_link_bytes_per_s, used.device_link_bytes_per_s),
        ("--gpus-per-node", network.per_node, used.per_node),
    ):
        if stated is not None and kept is None:
            more = ", or give --gpus-per-node" if option == "--inter-node" and devices > 1 else ""
            raise InputError(f"has no effect on {one}", where=option, remedy=f"leave it out{more}")


def in_nodes(device: Hardware, network: Network) -> Nodes:
    """Return the devices in nodes, with the links that are stated or that the datasheet names.

    Where neither says how fast devices of a node reach each other and nothing was measured, they
    do it over their host link.
    """
    spec = device.datasheet
    domain = spec.scaleup_devices if spec is not None else None
    size = network.per_node or (int(domain.value) if domain is not None else DEVICES_PER_NODE)
    link = None
    if network.inter_node_bytes_per_s is not None:
        link = NodeLink(network.inter_node_bytes_per_s, "given")
    elif (measured := device.network_bytes_per_s) is not None:
        link = NodeLink(measured, "measured")
    elif spec is not None and spec.inter_node_bandwidth_bytes_per_s is not None:
        link = NodeLink(spec.inter_node_bandwidth_bytes_per_s.value, "reference system")
    return Nodes(device, size, link, network.device_link_bytes_per_s)
