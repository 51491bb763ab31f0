"""Sphinx: Markdown pages, and an API reference out of the docstrings.

Builds without a network. Set DOCS_INTERSPHINX=1 to link to the documentation of Python and Trio as well.
"""

from __future__ import annotations

import importlib
import os
import re
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

import trio_eventlog

project = "trio-eventlog"
author = "The trio-eventlog contributors"
copyright = author  # noqa: A001 - what Sphinx calls it
release = installed_version("trio-eventlog")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"trio-eventlog {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# Factories make these objects; their constructors are not for users.
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
# "Attributes:" as a list within the class, not as entries that :members: would repeat.
napoleon_use_ivar = True

nitpicky = True
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
    }
    if os.environ.get("DOCS_INTERSPHINX")
    else {}
)
# Names of others, which only intersphinx could resolve.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(cattrs|collections|contextlib|hypothesis|logging|math|os|pathlib|re|subprocess|trio|types|typing)\..*",
    ),
    ("py:.*", r"[a-z]+"),
    ("py:class", "Ed25519(Private|Public)Key"),  # of cryptography
    ("py:.*", r"(AsyncIterator|Callable|Collection|Mapping|Sequence|PathLike|Any)"),
    # Of this library, and not public: what they stand for is in the text.
    (
        "py:class",
        r"(Filter|OnFailure|PosArgs|trio_eventlog\.(typed|_model\._wire|testing\._accounts)\.[TU])",
    ),
    ("py:exc", r"(Exception|KeyboardInterrupt|RuntimeError|TimeoutError|TypeError|ValueError)"),
    ("py:.*", r"(datetime|decimal|ssl|uuid)\.\w+"),
    ("py:.*", r"enum\.StrEnum|StrEnum|Protocol"),
]


PUBLIC_MODULES = (
    "trio_eventlog",
    "trio_eventlog.abc",
    "trio_eventlog.audit",
    "trio_eventlog.logging",
    "trio_eventlog.masking",
    "trio_eventlog.reading",
    "trio_eventlog.recorder",
    "trio_eventlog.retention",
    "trio_eventlog.stores",
    "trio_eventlog.testing",
    "trio_eventlog.typed",
)


def adopt_attribute_docs() -> None:
    """Let autodoc find the docstrings of attributes and aliases, and the order of members.

    It looks for them in the source of the module that a name is imported from, not in that of the private
    module that defines it.
    """
    homes = []
    for name in PUBLIC_MODULES:
        home = ModuleAnalyzer.for_module(name)
        home.analyze()
        homes.append((home, importlib.import_module(name).__all__))
    root = Path(trio_eventlog.__file__).parent
    for path in sorted(root.rglob("_*.py")):
        if path.name.startswith("__"):
            continue
        # Not imported: that would take the drivers of all stores.
        name = ".".join(("trio_eventlog", *path.relative_to(root).with_suffix("").parts))
        module = ModuleAnalyzer.for_file(path, name)
        module.analyze()
        for home, public in homes:
            for (owner, name), lines in module.attr_docs.items():
                if (owner or name).split(".")[0] in public:
                    home.attr_docs.setdefault((owner, name), lines)
            for ours, theirs in ((home.overloads, module.overloads), (home.tagorder, module.tagorder)):
                for name, value in theirs.items():
                    if name.split(".")[0] in public:
                        ours.setdefault(name, value)


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve names of this library without their module: docstrings say ``StoreError`` wherever they are."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removeprefix("~")
    for private in (
        "trio_eventlog._model._events.",
        "trio_eventlog._model._reports.",
        "trio_eventlog._model._query.",
    ):
        target = target.removeprefix(private)
    objects = env.domains.python_domain.objects
    found = [
        name
        for name, entry in objects.items()
        # An alias is the name by which the private module knows it.
        if not entry.aliased and (name == target or name.endswith(f".{target}"))
    ]
    if len(found) != 1:
        return None
    entry = objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, [content], found[0])


def name_defaults(_app: Sphinx, *event: object) -> tuple[str, object] | None:
    """Write a default that is a function as its name, not with its address in memory."""
    *_, signature, returns = event
    if not isinstance(signature, str):
        return None
    return re.sub(r"<built-in method random of Random object( at \w+)?>", "random.random", signature), returns


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    adopt_attribute_docs()
    app.connect("autodoc-process-signature", name_defaults)
    app.connect("missing-reference", resolve_public_name)
