"""The documentation builds in strict mode, and nothing is fetched when a page is viewed."""

import re

import pytest
from pages import PAGES, ROOT

pytest.importorskip("mkdocs", reason="needs the extra 'docs'")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


def test_every_page_is_built(site):
    names = [page.removeprefix("docs/").removesuffix(".md") for page in PAGES if page.startswith("docs/")]
    assert all((site / f"{name}.html").is_file() for name in names)


def test_no_page_fetches_anything_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text()
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"?([^\" >]+)", text)
        fetched += [link for link in re.findall(r"<link[^>]+>", text) if "stylesheet" in link or "preconnect" in link]
        assert not [name for name in fetched if "//" in name], path.name


def test_formulas_are_drawn_without_a_script(site):
    text = (site / "algorithms.html").read_text()
    assert text.count("<math") > 40
    assert r"\(" not in re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)


def test_no_formula_is_left_as_it_was_written(site):
    for path in site.rglob("*.html"):
        text = re.sub(r"<(script|style|pre|code).*?</\1>", "", path.read_text(), flags=re.S)
        found = [math for math in re.findall(r"<math.*?</math>", text, re.S) if "\\" in re.sub(r'="[^"]*"', "", math)]
        assert not found, path.name
        assert "$$" not in text, path.name
        assert not re.search(r"<p>\$\s*<", text), path.name
