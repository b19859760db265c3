"""The structure of the package: imports go one way, and one refit stays in few rooms."""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

from helpers.toy import collate, tiny_bert, toy_dataset

import hf_clear
from hf_clear import CleanProbabilityCallback, ClearLoraConfig, ClearTrainer

PACKAGE = Path(hf_clear.__file__).parent
MOST_FLOORS = 10  # of rooms in the package, `hf_clear/__init__.py` on top
MOST_CROSSINGS = 19  # of one refit


def modules() -> dict[str, Path]:
    """`hf_clear.losses.clear` and the like, and their files."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported_by(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a module imports anywhere, for types alone too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package.rsplit(".", node.level - 1)[0] if node.level else ""
        origin = ".".join(filter(None, [base, node.module])) if node.level else node.module
        for alias in node.names:
            found |= {n for n in (f"{origin}.{alias.name}", origin) if n in known and n != name} if origin else set()
    return {n for n in found if not any(other.startswith(f"{n}.") for other in found)}


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def graph(of_rooms: bool) -> dict[str, set[str]]:
    known = modules()
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        for other in imported_by(name, path, known):
            ends = (room(name), room(other)) if of_rooms else (name, other)
            if ends[0] != ends[1]:
                edges.setdefault(ends[0], set()).add(ends[1])
                edges.setdefault(ends[1], set())
    return edges


def floors(edges: dict[str, set[str]]) -> dict[str, int]:
    """1 for what imports nothing of the package, else one above the highest that it imports."""
    found: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...]) -> int:
        assert name not in above, f"imports go in a circle: {' -> '.join((*above[above.index(name) :], name))}"
        if name not in found:
            found[name] = 1 + max((floor(other, (*above, name)) for other in edges[name]), default=0)
        return found[name]

    for name in edges:
        floor(name, ())
    return found


def test_imports_go_one_way():
    assert floors(graph(of_rooms=False))
    of_rooms = floors(graph(of_rooms=True))
    assert of_rooms["hf_clear"] == max(of_rooms.values()) <= MOST_FLOORS, sorted(of_rooms.items(), key=lambda x: x[1])


def test_each_room_is_on_the_map():
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.name + "/" * path.is_dir() for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    families = set(re.findall(r"`hf_clear/(\w+/)`", page))
    places = page.split("## Where things are")[1].split("\n## ")[0]
    assert rooms - {"__init__.py", "__pycache__/"} == {*re.findall(r"`(\w+(?:\.py|/))`", places), *families}


def test_no_file_is_too_long_to_hold_in_mind():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert max(lengths.values()) <= 300, {name: n for name, n in lengths.items() if n > 300}


def test_each_docstring_begins_with_a_sentence():
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = ast.get_docstring(node)
                has_sentence = docstring != "" and not (docstring or "").startswith(("Args:", "Raises:", "Returns:"))
                assert has_sentence, f"{name}, line {node.body[0].lineno}"


def test_one_refit_stays_in_few_rooms(training_arguments):
    """Counted: calls from one room of the package into another, from `on_epoch_begin` of the callback until it returns.
    The pass over the training set is one call, whatever its batches do."""
    trainer = ClearTrainer(
        tiny_bert(),
        training_arguments(clear_warmup_epochs=0, num_train_epochs=1),
        train_dataset=toy_dataset(24),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS", r=4),
    )
    (callback,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, CleanProbabilityCallback)]
    stock, crossings = callback.on_epoch_begin, Counter()

    def watch(frame, event, argument):
        callers, above = [], frame.f_back
        while above is not None and above.f_code is not on_epoch_begin.__code__:
            callers.append(above)
            above = above.f_back
        own = [caller for caller in callers if caller.f_code.co_filename.startswith(str(PACKAGE))]
        is_own = frame.f_code.co_filename.startswith(str(PACKAGE))
        if event != "call" or not (own and is_own) or any(c.f_code.co_name == "predict_samples" for c in own):
            return
        rooms = room(own[0].f_globals["__name__"]), room(frame.f_globals["__name__"])
        if rooms[0] != rooms[1] and rooms[1] != "hf_clear._logging":  # where each message passes
            crossings[f"{rooms[0]} -> {rooms[1]}: {frame.f_code.co_name}"] += 1

    def on_epoch_begin(*args, **kwargs):
        sys.setprofile(watch)
        try:
            return stock(*args, **kwargs)
        finally:
            sys.setprofile(None)

    callback.on_epoch_begin = on_epoch_begin
    trainer.train()
    assert trainer.sample_store.is_fitted
    assert 0 < sum(crossings.values()) <= MOST_CROSSINGS, "\n".join(crossings)
