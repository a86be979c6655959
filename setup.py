"""Declares the compiled modules; everything else about the package stands in pyproject.toml.

The relay and the shared table are Cython. Plain Python modules that every login goes through are compiled too, as they
are: no other language, no other semantics, but half the interpreter's time saved (`scripts/bench --only login,scram`).

All of them are linked into one library, `doorman._compiled` (doorman/__init__.py imports them from it), in which what a
transaction runs through stands together (doorman/often.lds). As a library each, it lay on twice as many pages of code,
and on several of data for each module; a worker that wakes up finds few of them in the processor's caches.
"""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import LinkError

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}

COMPILED_PYTHON = (
    "doorman/auth/exchange.py",
    "doorman/auth/md5.py",
    "doorman/auth/methods.py",
    "doorman/auth/randomness.py",
    "doorman/auth/scram.py",
    "doorman/auth/server_login.py",
    "doorman/auth/verifier.py",
    "doorman/config/hba.py",
    "doorman/wire/backend.py",
    "doorman/wire/framing.py",
    "doorman/wire/frontend.py",
    "doorman/wire/startup.py",
    "doorman/wire/text.py",
    "doorman/workers/channel.py",
    "doorman/workers/credentials.py",
    "doorman/workers/destination.py",
    "doorman/workers/host.py",
    "doorman/workers/login.py",
    "doorman/workers/master.py",
    "doorman/workers/opening.py",
    "doorman/workers/process.py",
    "doorman/workers/roster.py",
    "doorman/workers/routes.py",
    "doorman/workers/socket_options.py",
    "doorman/workers/vault.py",
)
PYTHON_DIRECTIVES = {"language_level": "3", "annotation_typing": False, "binding": True}

OPTIMIZE = os.environ.get("DOORMAN_OPTIMIZE")  # for fuzzing, whose build takes minutes else
FLAGS = [OPTIMIZE or "-O3", "-fno-plt", "-fno-semantic-interposition", "-fno-strict-aliasing", "-Wno-unused-function"]
FLAGS += ["-ffunction-sections", "-fdata-sections"]  # so that often.lds can name them
PYTHON_FLAGS = [OPTIMIZE or "-O2", *FLAGS[1:]]


LIBRARY = "doorman._compiled"
OFTEN = Path("doorman/often.lds")
DIRECTORY = """#include <Python.h>
/* The modules that this library has. Made by setup.py. */
static const char *const names[] = {NAMES};
static int list_names(PyObject *module) {
    PyObject *all = PyFrozenSet_New(NULL);
    size_t at;
    for (at = 0; all && at < sizeof(names) / sizeof(*names); at++) {
        PyObject *name = PyUnicode_FromString(names[at]);
        if (!name || PySet_Add(all, name)) Py_CLEAR(all);
        Py_XDECREF(name);
    }
    if (!all) return -1;
    if (PyModule_AddObjectRef(module, "NAMES", all)) { Py_DECREF(all); return -1; }
    Py_DECREF(all);
    return 0;
}
static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)list_names}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_compiled", NULL, 0, NULL, slots, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__compiled(void) { return PyModuleDef_Init(&definition); }
"""


def compiled_modules() -> list[Extension]:
    """One extension for each .pyx file below doorman/."""
    return [extension(path, FLAGS) for path in sorted(Path("doorman").rglob("*.pyx"))]


def compiled_python() -> list[Extension]:
    """One extension for each module of COMPILED_PYTHON; of DOORMAN_COMPILE (words), where that is set."""
    names = os.environ.get("DOORMAN_COMPILE", " ".join(COMPILED_PYTHON)).split()  # set for fuzzing
    return [extension(Path(name), PYTHON_FLAGS) for name in names]


def extension(path: Path, flags: list[str]) -> Extension:
    """The module that this source becomes."""
    module = ".".join(path.with_suffix("").parts)
    last = module.rpartition(".")[2]  # which several modules share, and Python calls PyInit_<last>
    macros: list[tuple[str, str | None]] = [(f"PyInit_{last}", f"PyInit_{module.replace('.', '__')}")]
    return Extension(module, [str(path)], extra_compile_args=flags, define_macros=macros)


def together(modules: list[Extension]) -> Extension:
    """The library that all modules are linked into."""
    names = ", ".join(f'"{module.name}"' for module in modules)
    directory = Path("build/cython/_compiled.c")
    directory.parent.mkdir(parents=True, exist_ok=True)
    text = DIRECTORY.replace("NAMES", names, 1)
    if not directory.exists() or directory.read_text() != text:
        directory.write_text(text)
    library = Extension(LIBRARY, [str(directory)])
    library.modules = modules  # type: ignore[attr-defined]
    return library


class BuildTogether(build_ext):
    """Compiles each module by itself, several at a time, and links them."""

    def finalize_options(self) -> None:
        """Objects stay, by what they were made with: pip has each build begin in a directory of its own."""
        super().finalize_options()
        made_with = repr((sys.version, FLAGS, os.environ.get("CC"), os.environ.get("CFLAGS")))
        self.build_temp = f"build/objects-{hashlib.sha256(made_with.encode()).hexdigest()[:12]}"

    def build_extension(self, ext: Extension) -> None:
        with ThreadPoolExecutor(self.parallel or len(os.sched_getaffinity(0))) as pool:
            objects = [name for names in pool.map(self.compile_module, [*ext.modules, ext]) for name in names]
        path = self.get_ext_fullpath(ext.name)
        try:
            self.compiler.link_shared_object(objects, path, extra_postargs=[f"-Wl,-T,{OFTEN}"])
        except LinkError:
            self.warn(f"this linker does not take {OFTEN} (GNU ld and LLVM's do): linked without it, a little slower")
            self.compiler.link_shared_object(objects, path)

    def compile_module(self, module: Extension) -> list[str]:
        """Object files, made anew when the source or what this file says is newer."""
        objects = self.compiler.object_filenames(module.sources, output_dir=self.build_temp)
        newest = max(Path(name).stat().st_mtime for name in (*module.sources, __file__))
        if not self.force and all(Path(name).exists() and Path(name).stat().st_mtime > newest for name in objects):
            return list(objects)
        return list(
            self.compiler.compile(
                module.sources,
                output_dir=self.build_temp,
                macros=module.define_macros,
                extra_postargs=module.extra_compile_args,
            )
        )


MODULES = cythonize(compiled_modules(), compiler_directives=DIRECTIVES, build_dir="build/cython") + cythonize(
    compiled_python(), compiler_directives=PYTHON_DIRECTIVES, build_dir="build/cython"
)

setup(
    ext_modules=[together(MODULES)],
    cmdclass={"build_ext": BuildTogether},
)
