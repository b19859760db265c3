"""A run deletes and overwrites what runs have written, and nothing else."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from helpers.script import script  # noqa: F401
from helpers.texts import rows, write
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_clear.runs import NoisyTrainingArguments, PeftArguments, detect_last_checkpoint, note_outputs, run_arguments
from hf_clear.runs.outputs import check_output_dir, outputs_in, paths_read

OWN = ("README.md", "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "all_results.json")
OWN += ("checkpoint-5", "_incomplete", "adapter_model.safetensors", "clean_probabilities.parquet", "tokenizer.json")
OTHERS = ("survey_results.json", "train.csv", "my_README.md", "model-large.safetensors", "modelling.safetensors.txt")
OTHERS += ("checkpoint-best", "checkpoint-5.zip", "checkpoint-", "predict_results.txt.bak", "results.json", "notes")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder: Path, name: str, text: str) -> None:
    path = folder / name
    if name in ("checkpoint-5", "_incomplete", "checkpoint-best", "notes"):
        path = path / ("trainer_state.json" if "run" in text else "notes.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def begin(folder: Path, overwrite: bool = False, **kwargs) -> str | None:
    arguments = NoisyTrainingArguments(output_dir=str(folder), use_cpu=True)
    return detect_last_checkpoint(arguments, run_arguments(arguments), overwrite, **kwargs)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    before=st.sets(st.sampled_from(OWN + OTHERS)),
    of_the_run=st.sets(st.sampled_from(OWN)),
    after=st.sets(st.sampled_from(OWN + OTHERS)),
    overwrite=st.booleans(),
)
def test_whatever_a_user_puts_into_the_folder_stays(before, of_the_run, after, overwrite):
    """Before the run, and after its end."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "out"
        folder.mkdir()
        for name in before:
            put(folder, name, "the user's, from before")
        mine = content(folder)
        try:
            begin(folder)
        except ValueError as error:
            assert before & set(OWN) and all(name in str(error) for name in before & set(OWN))
            assert content(folder) == mine
            return
        assert not before & set(OWN) and mine.items() <= content(folder).items()
        for name in of_the_run:
            put(folder, name, "the run's")
        note_outputs(folder)
        for name in after:
            put(folder, name, "the user's, from after")
        left = content(folder)
        try:
            begin(folder, overwrite)
        except ValueError:
            assert after & set(OWN) and content(folder) == left
            return
        of_user = {name: text for name, text in left.items() if text != b"the run's" and "run_arguments" not in name}
        of_user = {name: text for name, text in of_user.items() if not name.startswith("_incomplete")}
        assert of_user.items() <= content(folder).items()
        assert set(outputs_in(folder)) == {"run_arguments.json"} or not overwrite


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_an_argument_names_is_never_in_the_way(tmp_path, overwrite):
    folder = tmp_path / "out"
    begin(folder)
    for name in ("checkpoint-5", "all_results.json", "README.md"):
        put(folder, name, "the run's")
    (tmp_path / "link.json").symlink_to(folder / "all_results.json")
    (tmp_path / "folder").symlink_to(folder)
    before = content(folder)
    for path in (
        *(folder / "all_results.json", tmp_path / "link.json", folder / "checkpoint-5", folder),
        *(tmp_path / "folder", Path(os.path.relpath(folder)), folder / "checkpoint-5" / "trainer_state.json"),
        *(tmp_path / "folder" / "README.md", folder / ".." / "out" / "README.md"),
    ):
        with pytest.raises(ValueError, match="--train_file .* (is the folder|is, or is in).*Choose another"):
            begin(folder, overwrite, read={"--train_file": str(path)})
        assert content(folder) == before
    begin(folder, overwrite, read={"--train_file": str(tmp_path), "--dataset_name": str(tmp_path / "none")})


def test_links_and_things_of_another_kind_are_not_a_runs(tmp_path):
    folder = tmp_path / "out"
    begin(folder)
    (tmp_path / "model.safetensors").write_text("of somebody")
    (tmp_path / "runs").mkdir()
    for name, make in {
        "model.safetensors": lambda path: path.symlink_to(tmp_path / "model.safetensors"),
        "checkpoint-7": lambda path: path.symlink_to(tmp_path / "runs"),
        "config.json": lambda path: path.mkdir(),
        "checkpoint-8": lambda path: path.write_text("a file"),
    }.items():
        make(folder / name)
        with pytest.raises(ValueError, match=f"holds {name}, and no run has written it"):
            begin(folder, overwrite=True)
        assert os.path.lexists(folder / name)
        shutil.rmtree(folder / name) if name == "config.json" else os.remove(folder / name)
    with pytest.raises(
        ValueError, match="--resume_from_checkpoint .*checkpoint-5, which the run would overwrite or del"
    ):
        put(folder, "checkpoint-5", "the run's")
        named = NoisyTrainingArguments(str(folder), use_cpu=True, resume_from_checkpoint=str(folder / "checkpoint-5"))
        detect_last_checkpoint(named, run_arguments(named), overwrite=True)
    assert paths_read(PeftArguments(), named) == {}
    (folder / "run_arguments.json").write_text('{"a": "file of the user\'s"}')
    with pytest.raises(ValueError, match="holds checkpoint-5, run_arguments.json, and no run has written them"):
        check_output_dir(folder, {})


def test_the_script_reads_and_checks_before_it_deletes(script, tmp_path, tiny_model):  # noqa: F811
    train, out = write(rows(60), tmp_path / "train.csv"), tmp_path / "out"
    out.mkdir()
    (out / "survey_results.json").write_text("[]")
    arguments = ["--train_file", train, "--num_train_epochs", 1, "--method", "none"]
    script(*arguments)
    before = content(out)
    assert before["survey_results.json"] == b"[]"
    (tmp_path / "bad.csv").write_text("text\nno label\n")
    for wrong in (
        ["--train_file", tmp_path / "bad.csv"],
        ["--label_column_name", "nowhere"],
        ["--validation_file", out / "all_results.json"],
        ["--test_file", tmp_path / "nowhere.csv"],
        ["--report_memorization"],
    ):
        with pytest.raises((ValueError, OSError)):
            script(*arguments, "--overwrite_output_dir", *wrong)
        assert content(out) == before, wrong
    (out / "README.md").write_text("What I found out about these data.")
    with pytest.raises(ValueError, match="holds README.md, and no run has written it as it is now"):
        script(*arguments, "--overwrite_output_dir")
    assert set(content(out)) == set(before)
    (out / "README.md").rename(tmp_path / "README.md")
    script(*arguments, "--overwrite_output_dir")
    assert (out / "survey_results.json").read_text() == "[]"

    shutil.copytree(tiny_model, tmp_path / "model")
    before = content(tmp_path / "model")
    for output_dir in (tmp_path / "model", tmp_path):
        os.path.lexists(tmp_path / "README.md")
        with pytest.raises(ValueError, match="is the folder that the run would write to|holds README.md"):
            here = ["--model_name_or_path", tmp_path / "model", "--output_dir", output_dir, "--use_cpu"]
            script(*arguments, "--overwrite_output_dir", *here, defaults=False)
    assert content(tmp_path / "model") == before
    assert (tmp_path / "README.md").read_text() == "What I found out about these data."
