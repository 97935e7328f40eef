"""The API reference shows what a user calls, and nothing else."""

import json
import subprocess
import sys

import pytest

# In a process of its own: the package sets pdoc up where it is imported after it.
_SCRIPT = """
import json
from pdoc import doc, extract

found = {}
for name in extract.walk_specs(["tfembloss"]):
    module = doc.Module.from_name(name)
    found[name] = {
        member.name: [
            member.kind,
            member.docstring,
            [m.name for m in getattr(member, "own_members", [])],
            getattr(member, "decorators", []),
        ]
        for member in module.own_members
    }
    found[name][""] = ["module", module.docstring, [], []]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("pdoc", reason='needs pip install ".[docs]"')
    process = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
    )
    return json.loads(process.stdout.splitlines()[-1])


def test_the_public_modules_are_those_of_the_package(reference):
    import tfembloss

    modules = {n for n in tfembloss.__all__ if isinstance(getattr(tfembloss, n), type(sys))}
    assert reference.keys() == {"tfembloss", *(f"tfembloss.{name}" for name in modules)}


def test_every_class_has_a_text_and_a_constructor_and_none_of_keras_hooks(reference):
    for module, members in reference.items():
        for name, (kind, text, shown, decorators) in members.items():
            assert text or kind == "variable", f"{module}.{name}"
            assert not decorators, f"{module}.{name}"
            if kind == "class":
                assert "__init__" in shown, f"{module}.{name}"
                hidden = {"call", "get_config", "from_config", "build", "formula"}
                assert not hidden & set(shown), f"{module}.{name}"
    assert reference["tfembloss.losses"]["SupConLoss"][2] == ["__init__"]
    assert reference["tfembloss.models"]["CrossEncoder"][2] == [
        "__init__", "from_pretrained", "save_pretrained", "predict", "rank",
    ]  # fmt: skip
