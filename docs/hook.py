"""What MkDocs calls as it builds the site: the pages of methods come in, and marked lines give way to generated text."""

from typing import Any

from generated import methods
from generated.marks import filled
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of methods in the navigation, below that of all."""
    listed = next(entry["Methods"] for entry in config.nav or [] if "Methods" in entry)
    listed += [{name: f"methods/{methods.file(name)}"} for name in methods.names()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each method."""
    for name in methods.names():
        files.append(File.generated(config, f"methods/{methods.file(name)}", content=methods.page(name)))
    return files


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Put generated text where a page asks for it."""
    return filled(markdown)
