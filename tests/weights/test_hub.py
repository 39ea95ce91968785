"""Errors of the hub, as messages that say what to do."""

import pytest
from huggingface_hub.utils import close_session

from serve_app.domain.endpoint import StoreConfig, Weights
from serve_app.domain.errors import WeightsUnavailable
from tests.weights.conftest import COMMIT, NAME, WEIGHTS
from weights.hub import Hub
from weights.store import Store

UNET = "unet/diffusion_pytorch_model.safetensors"


def refusal_message(store, weights=WEIGHTS):
    with pytest.raises(WeightsUnavailable) as caught:
        with store.open(weights):
            pass
    return caught.value.message


def test_a_gated_repository_without_a_token_names_the_address_and_the_setting(store, hub):
    hub.gated.add(NAME)
    message = refusal_message(store)
    assert f"accept its licence at {hub.url}/{NAME}" in message
    assert "HF_TOKEN" in message


def test_for_a_token_whose_account_has_not_accepted_the_error_says_so(make_store, hub):
    hub.gated.add(NAME)
    hub.tokens["mine"] = set()
    message = refusal_message(make_store(token="mine"))
    assert "account of HF_TOKEN has no access" in message
    assert f"{hub.url}/{NAME}" in message


def test_a_gated_repository_with_the_right_token_is_fetched(make_store, hub):
    hub.gated.add(NAME)
    hub.tokens["mine"] = {NAME}
    with make_store(token="mine").open(WEIGHTS) as folder:
        assert (folder / UNET).is_file()


def test_a_token_that_the_hub_does_not_know_is_reported(make_store, hub):
    assert "rejects the token" in refusal_message(make_store(token="old"))


def test_a_repository_that_is_not_there_is_reported(store):
    assert "has no house/nothing" in refusal_message(store, Weights("house/nothing", COMMIT))


def test_a_revision_that_is_not_there_is_reported(store):
    message = refusal_message(store, Weights(NAME, "f" * 40))
    assert f"no revision {'f' * 40}" in message


def test_a_hub_that_is_not_reached_is_reported_with_what_to_look_at(tmp_path):
    nowhere = Hub("http://127.0.0.1:9", tries=1)
    message = refusal_message(Store(StoreConfig(directory=tmp_path), lambda: nowhere))
    assert "http://127.0.0.1:9 cannot be reached" in message
    assert "HTTPS_PROXY" in message
    assert "models pull" in message


def test_a_proxy_that_does_not_let_through_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    close_session()  # the library caches the environment in its session
    try:
        away = Hub("https://hub.invalid", tries=1)
        message = refusal_message(Store(StoreConfig(directory=tmp_path), lambda: away))
    finally:
        close_session()
    assert "HTTPS_PROXY" in message


def test_server_errors_are_tried_again(store, hub, waits):
    hub.statuses += [(503, {}), (502, {})]
    hub.cdn_statuses += [500]
    with store.open(WEIGHTS) as folder:
        assert (folder / UNET).is_file()
    assert waits[:2] == [1.0, 2.0]


def test_server_errors_that_stay_are_reported(store, hub):
    hub.statuses += [(503, {})] * 5
    assert "answers 503" in refusal_message(store)


def test_too_many_calls_wait_as_long_as_the_hub_asks(store, hub, waits):
    hub.statuses.append((429, {"Retry-After": "7"}))
    with store.open(WEIGHTS):
        pass
    assert waits == [7.0]


def test_a_wait_without_measure_is_not_waited(store, hub, waits):
    hub.statuses.append((429, {"Retry-After": "86400"}))
    assert "429" in refusal_message(store)
    assert waits == []


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1]", "should be a JSON object"), ("{", "is not valid JSON"), ("[" * 100_000, "not valid")],
)
def test_a_pipeline_that_is_described_by_no_object_is_reported(store, hub, repository, text, words):
    (repository / "model_index.json").write_text(text)
    with pytest.raises(WeightsUnavailable, match=f"model_index.json of {NAME} .*{words}"):
        store.listing(WEIGHTS)
