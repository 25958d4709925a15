"""The C++ compiler behind inductor, asked less before the first build.

Inductor asks whether a compiler can build for each of the processor's instruction sets by compiling all of PyTorch's
vector headers for each, one after another, and loading the results in further processes: for a small network, longer
than its own kernels take. Which instructions the processor has, PyTorch knows. Whether the compiler knows them too, an
empty file tells.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys


@functools.cache
def knows_instruction_sets() -> bool | None:
    """True where the compiler takes the flags of all the processor's instruction sets; None: inductor has to ask.

    If a kernel then fails to build, it fails where it is compiled, and the eager engine serves.
    """
    from torch._inductor import config, cpp_builder, cpu_vec_isa

    if config.cpp.vec_isa_ok is not None or sys.platform != "linux":
        return None
    try:
        present = cpu_vec_isa.x86_isa_checker()
        if not present:  # another architecture
            return None
        sets = [isa for isa in cpu_vec_isa.supported_vec_isa_list if set(str(isa).split()) <= set(present)]
        flags = {flag for isa in sets for flag in isa._arch_flags.split()}
        command = [cpp_builder.get_cpp_compiler(), *sorted(flags), "-fsyntax-only", "-x", "c++", os.devnull]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False)
    except Exception:  # a compiler or an inductor of another kind
        return None
    return True if done.returncode == 0 else None
