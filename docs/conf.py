"""``sphinx-build -W --keep-going docs build/html``; with ``-D nb_execution_mode=off`` no tutorial is run."""

import os
import sys
from pathlib import Path

import specinn

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# so that tutorials find the command of this environment, activated or not
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

project = "specinn"
author = "The specinn developers"
copyright = author
release = version = specinn.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "outputs",
    "reference",
]
exclude_patterns = ["_ext"]

html_theme = "furo"
html_title = f"specinn {release}"
html_math_renderer = "mathml"

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_ivar = True  # fields of classes in one list, as their docstrings have them
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
