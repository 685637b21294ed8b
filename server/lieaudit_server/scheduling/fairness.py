"""Which waiting audit comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lieaudit_server.store.audits import Audit


def order(waiting: Sequence[Audit], running: Mapping[str, int], last_start: Mapping[str, int]) -> list[Audit]:
    """Order waiting audits: owners with the fewest running first, then who waited longest since their last start.

    Within one owner audits keep their order. Each audit taken counts as running for the ones after it, so that a long
    queue of one owner is interleaved with everybody else's.

    Parameters
    ----------
    waiting
        Waiting audits, oldest first.
    running
        Number of running audits by owner.
    last_start
        A rising number of each owner's last start; owners that never started are absent.
    """
    queues: dict[str, list[Audit]] = {}
    for audit in waiting:
        queues.setdefault(audit.owner, []).append(audit)
    taken = {owner: running.get(owner, 0) for owner in queues}
    ordered = []
    while queues:
        owner = min(queues, key=lambda o: (taken[o], last_start.get(o, -1), queues[o][0].number))
        ordered.append(queues[owner].pop(0))
        taken[owner] += 1
        if not queues[owner]:
            del queues[owner]
    return ordered


def within_share(audit: Audit, held: tuple[int, int], total: tuple[int, int], share: float) -> bool:
    """Whether an audit fits into its owner's share of what it runs on; the first one of an owner always does.

    Parameters
    ----------
    held
        CPU threads and GPUs that the owner's running audits hold.
    total
        CPU threads and GPUs that there are.
    share
        Part of either that one owner may hold.
    """
    kind, asked = (0, audit.threads) if audit.device is None else (1, 1)
    return not held[kind] or held[kind] + asked <= share * total[kind]
