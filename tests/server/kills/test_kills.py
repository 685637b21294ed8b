"""The server is killed with SIGKILL at random points of a mixed workload; every promise it made must hold.

``LIEAUDIT_KILLS`` sets how often (default 100).
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
from lieaudit_server.doctor import examine

KILLS = int(os.environ.get("LIEAUDIT_KILLS", "100"))


@pytest.mark.slow
def test_every_promise_holds_after_kills_at_random_points(work, promises, kit, tmp_path, say_counts):
    rng = random.Random(20261121)  # noqa: S311
    with work(tmp_path / "data") as at:
        book, server = at.book, at.server
        for cycle in range(KILLS):
            with promises.Clients(server, book, kit, at.nursery, at.base, cycle):
                promises.let_it_work(rng, book)
                at.nursery.kill()
            server.channel.close()
            server = at.nursery.start()
            promises.sweep(server, book, rng)
        promises.final_check(server, book, kit)
        server.channel.close()
        at.nursery.kill()

    assert not book.broken, book.broken
    assert examine(tmp_path / "data", repair=False) == []
    promises.check_bits(book, kit, at.images)
    assert not book.broken, book.broken
    ends = Counter(state for state in book.ended.values())
    assert book.reports
    total = sum(book.checked.values())
    say_counts(f"{KILLS} kills survived, {total} promises checked: {dict(book.checked)}; audits {dict(ends)}")
