"""The page in a real browser, which reaches this machine alone."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from processes import wait_until
from servers import serving

from llada.data.chat import decode_response, encode_prompt
from llada.data.tokenizer import encode
from llada.model.checkpoint import load_pretrained
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate, infill
from llada.sampling.trace import Trace

BROWSER = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
pytestmark = pytest.mark.skipif(not BROWSER.exists(), reason="no browser is installed")
QUESTION = "Is <b>a</b> & ${1+1} {{value}} larger?"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder in which the server keeps files."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def address(served, kept):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TMPDIR", str(kept))
        with serving(served, "--set", "gen_length=12", "--set", "temperature=1", command=["ui"]) as address:
            yield address
    assert not list(kept.glob("llada-ui-*"))


@pytest.fixture(scope="module")
def browser():
    alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=str(BROWSER), args=["--no-sandbox", alone])
        yield launched
        launched.close()


@contextmanager
def opened(browser, address: str):
    """The page in a window of its own. It must ask nobody else for anything, and its scripts must not fail."""
    asked, failed = [], []
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(error))
    try:
        page.goto(address)
        page.wait_for_selector("#go")
        yield page
    finally:
        context.close()
    assert not failed
    assert {re.match(r"(\w+://[^/]*)", url)[1] for url in asked if not url.startswith(("data:", "blob:"))} == {address}


def done(page, outcome: str | None = None) -> None:
    """Press the button, and wait for an outcome of another cost than before; AssertionError for another one."""
    before = page.inner_text("#cost")
    page.click("#go")
    page.wait_for_function(
        "before => !['', before].includes(document.querySelector('#cost').innerText.trim())", arg=before.strip()
    )
    if outcome is not None:
        expected = outcome.replace("\r\n", "\n").replace("\r", "\n")  # as browsers do
        playwright.expect(page.locator("#answer textarea")).to_have_value(expected)


def answered(served, question: str, earlier=(), **fields) -> str:
    """What the library answers, with the sampler that the page begins with."""
    model, tokenizer = load_pretrained(served)
    messages = [*earlier, {"role": "user", "content": question}]
    prompt = torch.tensor([encode_prompt(tokenizer, messages)])
    sampler = SamplerConfig.named("low_confidence", **{"gen_length": 12, "temperature": 1.0} | fields)
    out = generate(model, prompt, None, sampler, 5)
    return decode_response(tokenizer, out.sequences[0, prompt.shape[1] :].tolist())


WATCH = """
window.seen = [];
new MutationObserver(() => {
  const canvas = document.querySelector("#canvas .canvas");
  if (!canvas?.dataset.step) return;
  const now = [Number(canvas.dataset.step), canvas.querySelectorAll(".masked").length];
  if (String(window.seen.at(-1)) !== String(now)) window.seen.push(now);
}).observe(document.querySelector("#canvas"), {childList: true, subtree: true, attributes: true, characterData: true});
"""


def test_the_canvas_is_revealed_and_the_answer_is_that_of_the_library(browser, address, served):
    with opened(browser, address) as page:
        page.get_by_text("Watching").click()
        page.fill("#delay input[type=number]", "0.1")
        page.fill("#text textarea", QUESTION)
        page.fill("#seed input", "5")
        page.fill("#steps input", "6")
        page.evaluate(WATCH)
        done(page, answered(served, QUESTION, steps=6))
        seen = page.evaluate("window.seen")
        assert len(seen) >= 4  # a browser may show several at once
        assert all(masks == 12 - 2 * step for step, masks in seen)
        assert seen == sorted(seen)
        assert seen[-1] == [6, 0]
        assert "6 forward passes" in page.inner_text("#cost")
        assert page.locator("#canvas .fresh").count() == 2


@pytest.mark.slow
def test_an_error_is_told_as_text_and_the_next_answer_is_given(browser, address):
    with opened(browser, address) as page:
        page.fill("#text textarea", "a")
        page.fill("#others textarea", "<b>stepz</b>=3")
        page.click("#go")
        page.wait_for_selector(".toast-body")
        told = page.inner_text(".toast-body")
        assert "unknown key '<b>stepz</b>'; known keys: " in told
        assert "Traceback" not in told
        page.fill("#others textarea", "")
        done(page)


@pytest.mark.slow
def test_a_model_that_diverged_is_told(browser, served, tmp_path):
    model, tokenizer = load_pretrained(served)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with (
        serving(tmp_path / "model", "--set", "gen_length=12", command=["ui"]) as address,
        opened(browser, address) as page,
    ):
        page.fill("#text textarea", "a")
        page.click("#go")
        page.wait_for_selector(".toast-body")
        assert "look at its weights and its dtype" in page.inner_text(".toast-body")


def test_fixed_words_are_honoured_and_a_trace_is_downloaded(browser, address, served, kept, tmp_path):
    model, tokenizer = load_pretrained(served)
    prompt, mask = encode(tokenizer, "the "), [model.config.mask_token_id]
    canvas = [*prompt, *mask * 2, *encode(tokenizer, "model"), *mask * 4, *encode(tokenizer, ".")]
    out = infill(model, torch.tensor([canvas]), None, SamplerConfig(temperature=1.0), 0)
    with opened(browser, address) as page:
        page.get_by_label("continue", exact=True).check()
        page.get_by_label("Text to continue").fill("the ")
        page.fill("#fixed textarea", "2: model\n-1: .")
        done(page, tokenizer.decode(out.sequences[0], skip_special_tokens=True))
        page.wait_for_selector("#trace:enabled")
        page.wait_for_selector("#picture:enabled")
        for name in ("trace", "picture"):
            with page.expect_download() as download:
                page.click(f"#{name}")
            download.value.save_as(tmp_path / name)
        (folder,) = kept.glob("llada-ui-*/*/*")
    trace = Trace.load(tmp_path / "trace")
    assert trace.canvas[0].tolist() == canvas
    assert trace.final.equal(out.sequences)
    assert "llada trace" in (tmp_path / "picture").read_text(encoding="utf-8")
    wait_until(lambda: not folder.exists())  # the session has ended


@pytest.mark.slow
def test_gaps_are_filled(browser, address, served):
    model, tokenizer = load_pretrained(served)
    canvas = [*encode(tokenizer, "the "), *[model.config.mask_token_id] * 3, *encode(tokenizer, " reads")]
    out = infill(model, torch.tensor([canvas]), None, SamplerConfig(temperature=1.0), 0)
    with opened(browser, address) as page:
        page.get_by_label("fill in").check()
        page.get_by_label("Masks for each ___").fill("3")
        page.get_by_label("Text with gaps").fill("the ___ reads")
        assert not page.is_visible("#gen_length")
        done(page, str(tokenizer.decode(out.sequences[0])))


@pytest.mark.slow
def test_a_conversation_goes_on_and_is_forgotten(browser, address, served):
    first = answered(served, QUESTION)
    earlier = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": first}]
    with opened(browser, address) as page:
        page.fill("#seed input", "5")
        page.check("#keep input")
        page.fill("#text textarea", QUESTION)
        done(page, first)
        page.wait_for_function("document.querySelector('#text textarea').value === ''")
        assert QUESTION in page.inner_text("#turns")
        page.fill("#text textarea", "And b?")
        done(page, answered(served, "And b?", earlier))
        page.wait_for_function("document.querySelector('#text textarea').value === ''")
        page.click("#forget")
        page.wait_for_selector("#turns", state="hidden")
        page.fill("#text textarea", QUESTION)
        done(page, first)


@pytest.mark.slow
def test_it_can_be_stopped_and_the_next_one_need_not_wait(browser, address):
    with opened(browser, address) as page:
        page.get_by_text("Watching").click()
        page.fill("#delay input[type=number]", "0.5")
        page.fill("#text textarea", "a")
        page.click("#go")
        page.wait_for_selector("#canvas .canvas[data-step='1']")
        with page.expect_response(lambda response: response.url.endswith("/cancel")):  # once the step has ended
            page.click("#stop")
        page.wait_for_function("document.querySelector('#status').textContent.includes('stopped')")
        assert page.locator("#canvas .masked").count() > 0
        page.fill("#delay input[type=number]", "0")
        done(page)


@pytest.mark.slow
def test_a_published_sampler_fills_in_the_form(browser, address):
    with opened(browser, address) as page:
        page.click("#preset input")
        page.get_by_role("option", name="threshold").click()
        page.wait_for_function("document.querySelector('#others textarea').value === 'reveal=threshold'")
        assert page.input_value("#threshold input") == "0.9"
        assert page.input_value("#gen_length input") == "12"


def test_pages_of_other_names_are_refused(address):
    import httpx

    assert httpx.get(address, headers={"host": "elsewhere.example"}).status_code == 400
    assert httpx.get(address).status_code == 200
