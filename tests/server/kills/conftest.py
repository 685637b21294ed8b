"""What kills and other faults have in common: a server to be killed, clients at work, and what they were promised."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from lieaudit_api.v1 import audit_pb2, model_pb2, upload_pb2
from lieaudit_server.conversions import parse_report

import lieaudit
from lieaudit.data import open_dataset

CLIENTS = 3
OPEN_AUDITS = 3
SWEPT = 30
FINAL = ("succeeded", "failed", "cancelled")


class Nursery:
    """One server at a time, started by fork on the same data folder."""

    def __init__(self, service_class, children, data_dir, log):
        self._children = children
        self._service_class = service_class
        self._data_dir = data_dir
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
        )
        self.pid = 0

    def start(self):
        settings = {
            "data_dir": self._data_dir,
            "listen": "127.0.0.1:0",
            "max_attempts": 10**6,
            "threads_per_audit": 1,
            "min_free_bytes": 0,
        }
        flags = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), str(value))]
        self._process.stdin.write(json.dumps(["serve", *flags]) + "\n")
        self._process.stdin.flush()
        said = dict(self._process.stdout.readline().split(maxsplit=1) for _ in range(2))
        self.pid = int(said["pid"])
        server = self._service_class(self._data_dir)
        server.target = said["ready"].strip()
        server.connect()
        return server

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        while Path(f"/proc/{self.pid}").exists():
            time.sleep(0.002)

    def workers(self):
        """The workers and what starts them."""
        fork_servers = self._children(self.pid)
        return fork_servers + [worker for pid in fork_servers for worker in self._children(pid)]

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Book:
    """What the server has promised so far, and how often a promise was looked at."""

    def __init__(self):
        self.lock = threading.Lock()
        self.there = {}  # model -> its bytes
        self.gone = set()
        self.committed = Counter()
        self.audits = {}  # id -> (key, seed)
        self.keys = {}
        self.ended = {}  # id -> final state
        self.reports = {}
        self.spoilt = set()  # audits whose reports were damaged on the disk
        self.checked = Counter()
        self.broken = []
        self.achieved = threading.Event()  # set whenever an upload or an audit is done

    def check(self, what, holds, detail=""):
        with self.lock:
            self.checked[what] += 1
            if not holds:
                self.broken.append(f"{what}: {detail}")


class Client:
    """One client that does random things until the server is gone."""

    def __init__(self, server, book, kit, nursery, base, name):
        self.server, self.book, self.kit, self.nursery, self.base = server, book, kit, nursery, base
        self.random = random.Random(name)  # noqa: S311
        self.name = name

    def run(self, gone):
        work = (
            self.upload,
            self.upload,
            self.create,
            self.cancel,
            self.delete,
            self.look,
            self.report,
            self.watch,
            self.kill_worker,
        )
        while not gone.is_set():
            with contextlib.suppress(grpc.RpcError):  # killed in the middle, or refused: no promise was made
                self.random.choice(work)()
            time.sleep(self.random.uniform(0.0, 0.01))  # leave the CPUs to the server and its workers

    def model(self):
        return self.kit.tiny_model(self.random.randrange(20), pad=2**21)

    def status(self, digest):
        return self.server.models.GetUploadStatus(upload_pb2.UploadStatusRequest(sha256=digest), timeout=5)

    def upload(self):
        data = self.model()
        digest = self.kit.sha256(data)
        with self.book.lock:
            known = self.book.committed[digest]
            mine = digest not in self.book.gone and digest in self.book.there
        found = self.status(digest)
        if found.complete:
            return
        if not mine:
            self.book.check("committed bytes", found.committed_bytes >= known or self._raced(digest, known), digest)
        half = self.random.random() < 0.5 and found.committed_bytes == 0
        stream = self.kit.messages(data, "onnx", offset=found.committed_bytes, end=2**20 if half else None)
        try:
            self.server.models.UploadModel(stream, timeout=30)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.ABORTED and self.kit.reason_of(error).reason == "UPLOAD_INCOMPLETE":
                with self.book.lock:
                    self.book.committed[digest] = max(self.book.committed[digest], 2**20)
            return
        with self.book.lock:
            self.book.there[digest] = data
            self.book.gone.discard(digest)
            self.book.committed[digest] = 0
        self.book.achieved.set()

    def _raced(self, digest, known):
        # Another client may have finished and deleted this model in between; then nothing was promised any more.
        with self.book.lock:
            return self.book.committed[digest] < known or digest in self.book.there or digest in self.book.gone

    def create(self):
        with self.book.lock:
            if len(self.book.audits) - len(self.book.ended) >= OPEN_AUDITS:
                return
            number = len(self.book.keys)
            again = self.random.random() < 0.3 and number
            key = self.random.choice(sorted(self.book.keys)) if again else f"key-{self.name}-{number}"
            seed = self.book.keys.setdefault(key, self.random.randrange(3))
        audit = self.server.create(*self.base, {**self.kit.FAST, "seed": seed}, idempotency_key=key)
        with self.book.lock:
            known = [i for i, (k, _) in self.book.audits.items() if k == key]
            self.book.audits[audit.id] = (key, seed)
        self.book.check("idempotency", not known or known == [audit.id], key)

    def cancel(self):
        audit_id = self._any(i for i, (k, _) in self.book.audits.items() if k != "first" and i not in self.book.ended)
        if audit_id is None or self.random.random() < 0.95:
            return
        answer = self.server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=audit_id), timeout=5)
        with self.book.lock:
            self.book.ended.setdefault(audit_id, answer.state)
        self.book.check("cancel is final", answer.state in FINAL, answer.state)

    def delete(self):
        digest = self._any(self.book.there)
        if digest is None or self.random.random() < 0.5:
            return
        with self.book.lock:
            self.book.there.pop(digest, None)  # from now on neither is promised, until the answer is there
            self.book.committed[digest] = 0
        self.server.models.DeleteModel(model_pb2.DeleteModelRequest(sha256=digest), timeout=5)

    def look(self):
        audit_id = self._any(self.book.audits)
        if audit_id is None:
            return
        with self.book.lock:
            ended = self.book.ended.get(audit_id)
        audit = self.server.get(audit_id)  # NOT_FOUND would be a broken promise; see `final_check`
        if audit.state in FINAL:
            with self.book.lock:
                self.book.ended.setdefault(audit_id, audit.state)
            if ended is None:
                self.book.achieved.set()
        if ended is not None:
            self.book.check("final state stays", audit.state == ended, f"{audit_id}: {ended} became {audit.state}")

    def report(self):
        audit_id = self._any(i for i, state in self.book.ended.items() if state == "succeeded")
        if audit_id is None:
            return
        data = self.server.report(audit_id)
        with self.book.lock:
            known = self.book.reports.setdefault(audit_id, data)
        self.book.check("report stays", data == known, audit_id)

    def watch(self):
        audit_id = self._any(self.book.audits)
        if audit_id is not None:
            states = [event.state for event in self.server.watch(audit_id)]
            self.book.check("a watch that ends tells the end", states and states[-1] in FINAL, f"{audit_id}: {states}")

    def kill_worker(self):
        workers = self.nursery.workers()
        if workers and self.random.random() < 0.05:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(workers), signal.SIGKILL)

    def _any(self, items):
        with self.book.lock:
            choices = sorted(items)
        return self.random.choice(choices) if choices else None


def let_it_work(rng, book):
    """Wait for a random moment: mostly an early one, sometimes one just after something was done."""
    if rng.random() < 0.25:
        book.achieved.clear()
        book.achieved.wait(timeout=8.0)
        time.sleep(rng.uniform(0.0, 0.05))
    else:
        time.sleep(rng.uniform(0.0, 0.25))


def sweep(server, book, rng):
    """Look at what was promised before the kill: all models, the newest audits and some of the others."""
    for digest in book.there:
        stored = server.models.GetModel(model_pb2.GetModelRequest(sha256=digest))
        book.check("uploaded model is there", stored.sha256 == digest, digest)
    known = list(book.audits)
    for audit_id in {*known[-SWEPT:], *rng.sample(known, min(SWEPT, len(known)))}:
        state, wanted = server.get(audit_id).state, book.ended.get(audit_id)
        book.check("accepted audit is there", wanted in {None, state}, f"{audit_id}: {wanted} became {state}")


def final_check(server, book, kit, excused=frozenset()):
    """Look at every promise once more, with everything finished; audits may have failed for the reasons excused."""
    for digest, data in book.there.items():
        stored = server.models.GetModel(model_pb2.GetModelRequest(sha256=digest))
        book.check("uploaded model is there", stored.size_bytes == len(data), digest)
        blob = server.data_dir / "blobs" / digest[:2] / digest
        book.check("uploaded model is whole", kit.sha256(blob.read_bytes()) == digest, digest)
    for audit_id, (key, _) in book.audits.items():
        audit = server.finish(audit_id)
        wanted = book.ended.get(audit_id)
        book.check("accepted audit is there and ends", audit.state in FINAL, audit.state)
        book.check("final state stays", wanted in {None, audit.state}, f"{audit_id}: {wanted} became {audit.state}")
        lost = audit.state == "failed" and audit.failure.reason not in excused
        book.check("no audit is lost to a kill", not lost, f"{key}: {audit.failure}")
        sequences = [event.sequence for event in server.watch(audit_id)]
        book.check("sequence numbers rise", sequences == sorted(set(sequences)), audit_id)
        if audit_id in book.spoilt:
            book.check("a damaged report is not served", is_lost(server, audit_id), audit_id)
        elif audit.state == "succeeded":
            data = server.report(audit_id)
            book.check("report stays", data == book.reports.get(audit_id, data), audit_id)
            book.reports[audit_id] = data


def is_lost(server, audit_id):
    """Whether the server says that it has lost the report of an audit."""
    try:
        server.report(audit_id)
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.DATA_LOSS
    return False


def check_bits(book, kit, images):
    """Compare every report with one that nobody disturbed."""
    undisturbed = {}
    for audit_id, data in book.reports.items():
        seed = book.audits[audit_id][1]
        if seed not in undisturbed:
            spec = lieaudit.AuditSpec.from_dict({**kit.FAST, "seed": seed, "threads": 1})
            undisturbed[seed] = lieaudit.audit(kit.tiny_model(99), open_dataset(images), spec).results
        book.check("bit-identical to an undisturbed run", parse_report(data).results == undisturbed[seed], audit_id)


class Clients:
    """A context in which three clients work."""

    def __init__(self, server, book, kit, nursery, base, name):
        self._over = threading.Event()
        clients = [Client(server, book, kit, nursery, base, f"{name}-{n}") for n in range(CLIENTS)]
        self._threads = [threading.Thread(target=client.run, args=(self._over,), daemon=True) for client in clients]

    def __enter__(self):
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def work(service_class, kit, tmp_path):
    """Start a server to be killed, in a folder, with a model, images and one audit that nobody cancels."""

    @contextlib.contextmanager
    def begin(data_dir):
        book, images = Book(), tmp_path / "images.npz"
        images.write_bytes(kit.tiny_dataset(count=96))
        with (tmp_path / "log").open("w") as log:
            nursery = Nursery(service_class, kit.children, data_dir, log)
            try:
                server = nursery.start()
                model, dataset = server.upload_model(kit.tiny_model(99)), server.upload_dataset(images.read_bytes())
                base = (model.sha256, dataset.sha256)
                first = server.create(*base, {**kit.FAST, "seed": 0}, idempotency_key="first")
                book.audits[first.id], book.keys["first"] = ("first", 0), 0
                yield SimpleNamespace(nursery=nursery, book=book, server=server, base=base, images=images)
            finally:
                nursery.close()

    return begin


@pytest.fixture(scope="session")
def promises():
    """The functions above, for test modules."""
    return SimpleNamespace(
        Clients=Clients, let_it_work=let_it_work, sweep=sweep, final_check=final_check, check_bits=check_bits
    )
