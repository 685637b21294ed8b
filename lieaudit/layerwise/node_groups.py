"""Grouping the nodes of a graph into an acyclic graph of groups."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence

import onnx_ir as ir

from lieaudit.graph.nodes import reads


class Groups:
    """Nodes in topological order, each in one group; the graph of groups stays acyclic under `join`.

    Parameters
    ----------
    nodes
        In topological order. Edges are the tensors between them, those read in branches and bodies included.
    holders
        The node of the graph in which each node of a branch or body lies.
    """

    def __init__(self, nodes: Sequence[ir.Node], holders: Mapping[ir.Node, ir.Node]) -> None:
        self.nodes = list(nodes)
        self._index = {node: i for i, node in enumerate(nodes)}
        self._index |= {inner: self._index[node] for inner, node in holders.items() if node in self._index}
        self._parent = list(range(len(nodes)))
        self._after: list[set[int]] = [set() for _ in nodes]
        self._before: list[set[int]] = [set() for _ in nodes]
        for i, node in enumerate(nodes):
            for value in reads(node):
                source = self._index.get(value.producer())  # type: ignore[arg-type]
                if source is not None:
                    self._after[source].add(i)
                    self._before[i].add(source)

    def find(self, index: int) -> int:
        """Return the representative of a node's group."""
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def group_of(self, node: ir.Node) -> int:
        """Return the group of a node."""
        return self.find(self._index[node])

    def producers(self, group: int) -> set[int]:
        """Return the groups that feed a group."""
        return {self.find(i) for i in self._before[group]} - {group}

    def consumers(self, group: int) -> set[int]:
        """Return the groups that a group feeds."""
        return {self.find(i) for i in self._after[group]} - {group}

    def join(self, first: int, second: int) -> bool:
        """Make two groups one unless a path through a third one would then be a cycle; say whether it was done."""
        first, second = self.find(first), self.find(second)
        if first == second:
            return True
        if self._detour(first, second) or self._detour(second, first):
            return False
        self._unite(first, second)
        return True

    def _unite(self, first: int, second: int) -> int:
        keep, drop = min(first, second), max(first, second)
        self._parent[drop] = keep
        self._after[keep] |= self._after[drop]
        self._before[keep] |= self._before[drop]
        return keep

    def _detour(self, start: int, goal: int) -> bool:
        """Whether a path from start to goal passes a third group."""
        seen = {start, goal}
        stack = [g for g in self.consumers(start) if g != goal]
        while stack:
            group = stack.pop()
            if group in seen:
                continue
            seen.add(group)
            after = self.consumers(group)
            if goal in after:
                return True
            stack.extend(after - seen)
        return False

    def join_equal(self, keys: Mapping[ir.Node, Hashable]) -> None:
        """Join neighbours with equal keys wherever that leaves the graph acyclic."""
        for i, node in enumerate(self.nodes):
            for source in sorted(self._before[i]):
                if keys[self.nodes[source]] == keys[node]:
                    self.join(source, i)

    def join_through(self, values: Iterable[ir.Value]) -> list[tuple[ir.Value, list[int]]]:
        """Join everything that the given tensors connect, with all that lies on a path between.

        Returns
        -------
        list
            Each tensor that joined different groups, with these groups as they were.
        """
        joined = []
        for value in values:
            producer = value.producer()
            if producer is None:
                continue
            start = self.group_of(producer)
            ends = {self.group_of(node) for node, _ in value.uses() if node in self._index} - {start}
            if not ends:
                continue
            between = {start} | ends
            for end in ends:
                between |= self._between(start, end)
            joined.append((value, sorted(between)))
            self._unite_all(between)
        return joined

    def _between(self, start: int, end: int) -> set[int]:
        """Return the groups on paths from start to end."""
        down = self._reach(start, forward=True)
        return down & self._reach(end, forward=False)

    def _unite_all(self, groups: set[int]) -> None:
        """Unite groups with everything on paths between any two of them."""
        down: set[int] = set()
        up: set[int] = set()
        for group in groups:
            down |= self._reach(group, forward=True)
            up |= self._reach(group, forward=False)
        first, *rest = sorted((down & up) | groups)
        for other in rest:
            first = self._unite(first, other)

    def _reach(self, group: int, *, forward: bool) -> set[int]:
        seen: set[int] = set()
        stack = [group]
        while stack:
            here = stack.pop()
            if here not in seen:
                seen.add(here)
                stack.extend((self.consumers(here) if forward else self.producers(here)) - seen)
        return seen

    def ordered(self) -> list[list[ir.Node]]:
        """Return the groups in a topological order, early nodes first, each with its nodes in graph order."""
        members: dict[int, list[ir.Node]] = {}
        for i, node in enumerate(self.nodes):
            members.setdefault(self.find(i), []).append(node)
        waiting = {group: len(self.producers(group)) for group in members}
        ready = [group for group, count in waiting.items() if count == 0]
        heapq.heapify(ready)
        out = []
        while ready:
            group = heapq.heappop(ready)
            out.append(members[group])
            for after in self.consumers(group):
                waiting[after] -= 1
                if waiting[after] == 0:
                    heapq.heappush(ready, after)
        return out
