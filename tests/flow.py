"""Blocks and loops of a kernel's instructions, and how many loads are under way before one is waited for."""

import heapq
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from tests.cubins import BYTES, Instruction, Kernel, Unreadable

NONE = 7  # no scoreboard
_JUMPS = re.compile(r"(BRA|JMP|CALL|BRXU?|EXIT|RET|KILL|WARPSYNC\.COLLECTIVE)\b")
_FORKS = re.compile(r"BRA(\.\w+)*\.(DIV|CONV)\b|BRA\S*\s+!?U?P\d")  # branches that may fall through without a guard
_PADDING = re.compile(r"NOP|BRA\b")


def address(ins: Instruction) -> int | None:
    """The one that a jump or call names."""
    found = re.search(r"0x([0-9a-f]+)$", ins.text)
    return int(found[1], 16) if found else None


class Loop(NamedTuple):
    name: str  # its place among the loops of the loop around it, in the order of addresses: 0, 1, 1.0
    header: int
    body: frozenset[int]
    own: frozenset[int]  # blocks that no inner loop has


class Flow:
    def __init__(self, kernel: Kernel, code: list[Instruction]) -> None:
        self.code = code
        self.name = kernel.name
        targets = {i: self._targets(kernel, i) for i, ins in enumerate(code) if _JUMPS.match(ins.text)}
        leaders = {0, *(t for to in targets.values() for t in to), *(i + 1 for i in targets)}
        self.starts = sorted(start for start in leaders if start < len(code))
        self.ends = [*self.starts[1:], len(code)]
        self.next: list[list[int]] = []
        self.roots = {0}
        block = {start: b for b, start in enumerate(self.starts)}
        calls: dict[int, list[int]] = {}
        for b, end in enumerate(self.ends):
            last, to = code[end - 1], [block[t] for t in targets.get(end - 1, ())]
            if last.op.startswith("CALL"):
                calls[b], to = to, []
            ends = re.match(r"(BRA|JMP|BRXU?|EXIT|RET|KILL)\b", last.text) and last.guard in ("", "PT")
            falls = [] if ends and not _FORKS.match(last.text) else [b + 1]
            self.next.append([t for t in dict.fromkeys([*to, *falls]) if t < len(self.starts)])
        for b, to in calls.items():
            if all(self._returns(t) for t in to):
                self.roots |= set(to)
            else:  # a call that is a jump: how 8.x leaves a loop whose lanes have met
                self.next[b] = [*to, *(self.next[b] if code[self.ends[b] - 1].guard not in ("", "PT") else [])]
        self.order = self._postorder(self.roots, set(range(len(self.starts))), self.next)[::-1]
        self.place = {b: n for n, b in enumerate(self.order)}
        for b in set(range(len(self.starts))) - set(self.order):
            if any(not _PADDING.match(ins.text) for ins in code[self.starts[b] : self.ends[b]]):
                raise Unreadable(f"{self.name}: nothing leads to the instructions at {self.starts[b] * BYTES:#x}")
        self.before: list[list[int]] = [[] for _ in self.starts]
        for b in self.order:
            for t in self.next[b]:
                self.before[t].append(b)
        self.loops = self._loops(set(self.order), self.next, "")
        inside = frozenset().union(*(loop.body for loop in self.loops))
        everything = frozenset(self.order)
        self.outside = Loop("", 0, everything, everything - inside)

    def _targets(self, kernel: Kernel, i: int) -> list[int]:
        """Where the jump at ``i`` may go; falling through is not among them."""
        ins = self.code[i]
        if re.match(r"EXIT|RET|KILL|CALL\.ABS", ins.op):  # the last is a function of the driver, such as __assertfail
            return []
        named = address(ins)
        found = kernel.targets.get(i * BYTES, []) if ins.op.startswith("BRX") else [] if named is None else [named]
        if not found or not all(t % BYTES == 0 and t // BYTES < len(self.code) for t in found):
            raise Unreadable(f"{self.name}: the targets of {ins.text!r} at {i * BYTES:#x} are unknown")
        return [t // BYTES for t in found]

    def _returns(self, block: int) -> bool:
        """Whether the code there is a function: some of its ways end in a return."""
        reached = self._postorder({block}, range(len(self.starts)), self.next)
        return any(self.code[self.ends[b] - 1].op.startswith("RET") for b in reached)

    @staticmethod
    def _postorder(roots: Collection[int], nodes: Collection[int], edges: list[list[int]]) -> list[int]:
        order, seen = [], set()
        for root in sorted(roots, reverse=True):
            stack = [] if root in seen else [(root, iter(edges[root]))]
            seen.add(root)
            while stack:
                b, to = stack[-1]
                if (t := next((t for t in to if t in nodes and t not in seen), None)) is None:
                    order.append(stack.pop()[0])
                else:
                    seen.add(t)
                    stack.append((t, iter(edges[t])))
        return order

    def _loops(self, nodes: set[int], edges: list[list[int]], prefix: str) -> list[Loop]:
        """Strongly connected blocks are a loop; without the edges back to where it is entered, those left are the loops
        in it. So a loop with two entries is one as well."""
        back: list[list[int]] = [[] for _ in self.starts]
        for b in nodes:
            for t in edges[b]:
                if t in nodes:
                    back[t].append(b)
        left, found = set(nodes), []
        for b in self._postorder(nodes, nodes, edges)[::-1]:
            if b in left:
                body = set(self._postorder({b}, left, back))
                left -= body
                if len(body) > 1 or b in edges[b]:
                    found.append(body)
        loops = []
        for n, body in enumerate(sorted(found, key=min)):
            entries = {b for b in body if b in self.roots or any(p not in body for p in self.before[b])} or {min(body)}
            inner_edges = [[t for t in to if t not in entries] for to in edges]
            inner = self._loops(body, inner_edges, f"{prefix}{n}.")
            own = body - set().union(*(loop.body for loop in inner))
            loops += [
                Loop(f"{prefix}{n}", min(entries, key=self.place.__getitem__), frozenset(body), frozenset(own)),
                *inner,
            ]
        return loops

    def positions(self, blocks: Iterable[int]) -> Iterator[int]:
        for b in blocks:
            yield from range(self.starts[b], self.ends[b])

    def longest(self, loop: Loop) -> int:
        """Instructions of the longest iteration, those of inner loops left out."""
        weight = {b: self.ends[b] - self.starts[b] if b in loop.own else 0 for b in loop.body}
        far = {loop.header: weight[loop.header]}
        for b in sorted(loop.body, key=self.place.__getitem__):
            for t in self.next[b] if b in far else ():
                if t in loop.body and self.place[t] > self.place[b]:
                    far[t] = max(far.get(t, 0), far[b] + weight[t])
        return max((n for b, n in far.items() if loop.header in self.next[b]), default=max(far.values()))

    def in_flight(self, loop: Loop, loads: set[int]) -> int:
        """The most of the loop's ``loads`` (positions) that are issued before the first of them is waited for.

        Most over the paths inside the loop, through its end once: another path may be a scalar one.
        """
        most = 0
        for b in loop.own:
            for n in range(self.starts[b], self.ends[b]):
                if n in loads:
                    most = max(most, self._issued(loop, loads, b, n))
        return most

    def _issued(self, loop: Loop, loads: set[int], block: int, n: int) -> int:
        board, most = self.code[n].sets, 0
        queue, best = [(0, self.place[block], block)], {(0, block): 0}
        while queue:
            turn, _, b = heapq.heappop(queue)
            count = best[turn, b]
            start = n if (turn, b) == (0, block) else self.starts[b]
            for i in range(start, self.ends[b]):
                if i > n or turn or b != block:
                    if self.code[i].waits >> board & 1:
                        break
                if i == n and turn:
                    break
                if i in loads and b in loop.own:
                    count += 1
            else:
                for t in self.next[b]:
                    later = turn + (self.place[t] <= self.place[b])
                    if t not in loop.body or later > 1:
                        continue
                    if (later, t) not in best:
                        heapq.heappush(queue, (later, self.place[t], t))
                    best[later, t] = max(best.get((later, t), 0), count)
            most = max(most, count)
        return most
