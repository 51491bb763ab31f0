"""The page's pure modules, one by one, in the browser that runs them."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests._helpers.json_values import exact, payloads, texts


@pytest.fixture(scope="module")
def page(browser):
    from tests._helpers.console_site import ConsoleSite, kept
    from trio_eventlog.stores import MemoryStore

    site = ConsoleSite(lambda: kept(MemoryStore()))
    context = browser.new_context()
    opened = context.new_page()
    opened.add_init_script(
        "window.load = (name) => import(new URL(`static/js/${name}.js`, document.baseURI));"
    )
    opened.goto(site.url)
    yield opened
    context.close()
    site.stop()


def call(page, module, function, *arguments):
    """Call an exported function with values that JSON can hold."""
    return page.evaluate(
        """async ([module, body, values]) => {
          const exports = await load(module);
          return exports[body](...values);
        }""",
        [module, function, list(arguments)],
    )


many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(payloads)
def test_numbers_keep_their_digits(page, value):
    text = json.dumps(value)
    back = page.evaluate(
        """async (text) => {
          const { parseExact, stringifyExact } = await load("exact");
          return [stringifyExact(parseExact(text)), stringifyExact(parseExact(text), 2)];
        }""",
        text,
    )
    for each in back:
        assert exact(json.loads(each)) == exact(value)


@pytest.mark.parametrize("digits", ["18446744073709551615", "-9223372036854775808", "1.0", "1e400", "0.1"])
def test_a_number_is_shown_as_it_was_written(page, digits):
    shown = page.evaluate(
        """async (digits) => {
          const { parseExact, stringifyExact } = await load("exact");
          return stringifyExact(parseExact(`[${digits}]`));
        }""",
        digits,
    )
    assert shown == f"[{digits}]"


HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


@many
@given(
    st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\x00\n\u202e\u2066\ufeff")))
)
def test_nothing_is_hidden_in_text(page, text):
    shown = call(page, "text", "visible", text)

    assert not HIDDEN.search(shown)
    if not HIDDEN.search(text) and not re.search("[\ufff9-\ufffb]", text):
        assert shown == text


@many
@given(
    st.lists(texts, unique=True, max_size=3),
    st.dictionaries(
        st.sampled_from(["member_id", "module", "run_id", "step_id", "identity", "mob_id"]), texts
    ),
    st.dictionaries(texts, payloads, max_size=3),
    st.none() | st.integers(0, 10**15),
)
def test_an_address_leads_back_to_the_same_place(page, types, strings, fields, since):
    there, back = page.evaluate(
        """async ([types, strings, fields, since]) => {
          const { noFilters, readPlace, writePlace } = await load("query");
          const { parseExact, stringifyExact } = await load("exact");
          const pairs = new Map(fields.map(([key, text]) => [key, parseExact(text)]));
          const filters = { ...noFilters(), types, strings, fields: pairs, since };
          const place = { view: "runs", log: "a&b", filters, open: "42", run: "r=1", tab: null };
          const plain = (filters) => ({ ...filters, fields: [...filters.fields] });
          const shown = (it) => stringifyExact({ ...it, filters: plain(it.filters) });
          return [shown(place), shown(readPlace(writePlace(place)))];
        }""",
        [types, strings, [[key, json.dumps(value)] for key, value in fields.items()], since],
    )
    there, back = json.loads(there), json.loads(back)
    for place in (there, back):
        # Keys that look like numbers come first in JavaScript.
        place["filters"]["fields"].sort(key=lambda pair: pair[0])
    assert exact(back) == exact(there)


spans = st.lists(
    st.builds(
        lambda start, length, is_open: {
            "start": start,
            "end": start + length,
            "isOpen": is_open,
            "events": [],
        },
        st.integers(0, 50),
        st.integers(0, 20),
        st.booleans(),
    ),
    max_size=12,
)


@many
@given(spans)
def test_bars_of_a_row_do_not_overlap(page, spans):
    rows = call(page, "spans", "packed", spans)

    assert sum(map(len, rows)) == len(spans)
    for row in rows:
        for before, after in pairwise(row):
            assert before["end"] <= after["start"]
            assert not before["isOpen"]


@many
@given(st.lists(st.none() | st.integers(0, 12), max_size=12))
def test_a_tree_has_everybody_below_its_parent(page, parents):
    tree = page.evaluate(
        """async (parents) => {
          const { inTreeOrder } = await load("tasktree");
          const items = parents.map((parent, id) => ({ id, parent }));
          return inTreeOrder(items, (item) => item.id, (item) => item.parent);
        }""",
        parents,
    )
    path = []
    for node in tree:
        path = path[: node["depth"]]
        assert node["item"]["parent"] == (path[-1] if path else None)
        path.append(node["id"])

    def hangs(task):
        seen = set()
        while task is not None and task not in seen:
            seen.add(task)
            task = parents[task] if task < len(parents) else task
        return task is None

    # Whose ancestors lead nowhere, or round in a circle, is not in it; everybody else is, once.
    assert sorted(node["id"] for node in tree) == [task for task in range(len(parents)) if hangs(task)]


def test_a_tree_whose_ids_occur_twice_ends(page):
    tree = page.evaluate(
        """async () => {
          const { inTreeOrder } = await load("tasktree");
          const items = [[1, null], [2, 1], [1, 2]];
          return inTreeOrder(items, ([id]) => id, ([, parent]) => parent);
        }"""
    )
    assert [node["id"] for node in tree] == [1, 2, 1]


def test_a_deep_payload_is_printed(page):
    lines = page.evaluate(
        """async () => {
          const { linesOf } = await load("payload");
          let value = "bottom";
          for (let depth = 0; depth < 20000; depth++) value = [value];
          return linesOf(value, 50000).length;
        }"""
    )
    assert lines == 40001
