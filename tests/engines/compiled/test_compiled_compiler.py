"""What inductor need not ask the compiler, because an empty file has told it."""

from __future__ import annotations

import subprocess

import pytest
from torch._inductor import config, cpp_builder, cpu_vec_isa

from fairtat.engines.compiled.compiler import knows_instruction_sets


@pytest.fixture(autouse=True)
def ask_again():
    knows_instruction_sets.cache_clear()
    yield
    knows_instruction_sets.cache_clear()


def with_compiler(monkeypatch, path):
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: str(path))


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_one_question_covers_every_instruction_set_of_the_processor(monkeypatch, tmp_path):
    asked = tmp_path / "asked"
    with_compiler(monkeypatch, script(tmp_path / "cxx", f'echo "$@" >> {asked}'))
    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["avx2", "avx512"])
    assert knows_instruction_sets() is True
    assert knows_instruction_sets() is True
    (flags,) = asked.read_text().splitlines()
    assert {"-mavx2", "-mfma", "-mavx512f", "-mavx512bw"} <= set(flags.split())
    assert "-mamx-tile" not in flags


def test_inductor_then_compiles_no_headers_to_find_out(monkeypatch, tmp_path):
    with_compiler(monkeypatch, script(tmp_path / "cxx", "exit 0"))
    tried = []
    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", lambda self, code: tried.append(code) or True)
    for known, expected in ((knows_instruction_sets(), 0), (None, 1)):
        tried.clear()
        cpu_vec_isa.VecISA._VecISA__bool__impl.cache_clear()
        with config.patch({"cpp.vec_isa_ok": known}):
            assert bool(cpu_vec_isa.VecAVX2())
        assert len(tried) == expected
    cpu_vec_isa.VecISA._VecISA__bool__impl.cache_clear()


def times_out(*args, **kwargs):
    raise subprocess.TimeoutExpired("cxx", 60)


@pytest.mark.parametrize("how", ["refuses", "missing", "another architecture", "hangs"])
def test_otherwise_inductor_asks(monkeypatch, tmp_path, how):
    with_compiler(monkeypatch, script(tmp_path / "cxx", "exit 1" if how == "refuses" else "exit 0"))
    if how == "missing":
        (tmp_path / "cxx").unlink()
    elif how == "another architecture":
        monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", list)
    elif how == "hangs":
        monkeypatch.setattr(subprocess, "run", times_out)
    assert knows_instruction_sets() is None


@pytest.mark.parametrize("choice", [True, False])
def test_what_a_user_has_set_stays(monkeypatch, tmp_path, choice):
    with_compiler(monkeypatch, script(tmp_path / "cxx", "exit 0"))
    with config.patch({"cpp.vec_isa_ok": choice}):
        assert knows_instruction_sets() is None
