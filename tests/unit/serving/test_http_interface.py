"""Every request over HTTP gets its answer, or a 4xx that says why: limits, times, tokens, odd images."""

import base64
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from contract.model_answers import ImageAnswer
from contract.model_layout import ModelPaths
from serving.model import Model, load_model
from tests.fuzzed_bodies import BOUNDARY, FORMATS, fuzz, make_form
from tests.http_server import Client, Reply, ask_over, make_service, running
from tests.tiny_models import CLASSES, make_noise, write_tiny_model

FORM = f"multipart/form-data; boundary={BOUNDARY}"
PHOTO = make_noise(0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return write_tiny_model(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def model(tiny: ModelPaths) -> Model:
    return load_model(tiny, device="cpu", threads=1)


@pytest.fixture(scope="module")
def client(tiny: ModelPaths) -> Iterator[Client]:
    with running(make_service(tiny)) as client:
        yield client


def expect(reply: Reply, status: int, reason: str) -> None:
    assert reply.status == status, reply
    assert reason in reply.value["error"]
    assert "\n" not in reply.value["error"]


def agree(row: dict[str, Any], expected: ImageAnswer | str) -> None:
    """Check that a row says what the model says in this process."""
    assert isinstance(expected, ImageAnswer)
    values = expected.as_values()
    assert row["probabilities"] == pytest.approx(values.pop("probabilities"), abs=1e-6)
    for name in ("probability", "second_probability"):
        assert row[name] == pytest.approx(values.pop(name), abs=1e-6)
    assert {name: row[name] for name in values} == values


def test_all_ways_to_send_an_image_get_the_models_own_answer(client: Client, model: Model) -> None:
    (expected,) = model.classify([PHOTO])
    text = base64.b64encode(PHOTO).decode()
    replies = [
        client.post("/predict", PHOTO),
        client.post("/models/tiny/predict", PHOTO, "application/octet-stream"),
        client.post("/predict", make_form([("a.jpg", PHOTO)]), FORM),
        client.post("/predict", json.dumps({"image": text}).encode(), "application/json"),
        client.post("/predict", json.dumps({"images": [text]}).encode(), "application/json"),
        client.post("/predict", iter([PHOTO[:100], PHOTO[100:]]), "image/jpeg"),
    ]

    for reply in replies:
        assert reply.status == 200
        assert reply.value["model"] == "tiny"
        assert reply.value["version"] == model.paths.digest()
        (row,) = reply.value["predictions"]
        assert row["name"] in (None, "a.jpg")
        agree(row, expected)


@pytest.mark.parametrize(
    ("format", "mode"), [*FORMATS, ("PNG", "LA"), ("PNG", "1"), ("JPEG", "CMYK"), ("TIFF", "F")]
)
def test_an_image_of_any_mode_gets_the_models_own_answer(
    client: Client, model: Model, format: str, mode: str
) -> None:
    content = make_noise(4, kind=format, mode=mode)

    (row,) = client.post("/predict", content).value["predictions"]

    (expected,) = model.classify([content])
    agree(row, expected)


def test_one_bad_image_among_fifty_costs_the_others_nothing(client: Client) -> None:
    files = [(f"{number}.jpg", make_noise(number)) for number in range(50)]
    files[17] = ("notes.txt", b"no image at all")

    reply = client.post("/predict", make_form(files), FORM)

    rows = reply.value["predictions"]
    assert reply.status == 200
    assert [row["name"] for row in rows] == [name for name, _ in files]
    assert rows[17] == {"name": "notes.txt", "error": "no image format that can be read"}
    labels = [row["label"] for number, row in enumerate(rows) if number != 17]
    assert labels == [CLASSES[number % 3] for number in range(50) if number != 17]


def test_bad_requests_get_a_status_and_a_reason(client: Client) -> None:
    expect(client.post("/predict", b""), 400, "empty")
    expect(client.post("/predict", PHOTO[:200]), 400, "")
    expect(client.post("/predict", b"hello"), 400, "no image format")
    expect(client.post("/predict", PHOTO, "text/html"), 415, "text/html")
    expect(client.post("/predict", PHOTO, Content_Encoding="gzip"), 415, "uncompressed")
    expect(client.post("/predict", b"x" * (2**20 + 1)), 413, "1 MiB")
    expect(client.post("/predict", make_form([("a", b"x")] * 61), FORM), 413, "60 images")
    expect(client.post("/predict", make_noise(0, side=1100, kind="PNG", mode="1")), 400, "1100 x 1100 pixels")
    expect(client.post("/models/tinny/predict", PHOTO), 404, "there are tiny")
    expect(client.post("/predict?coverage=0.4", PHOTO), 422, "0.50 to 0.99")
    expect(client.post("/predict?coverage=high", PHOTO), 422, "no number")
    expect(client.post("/predict?coverage=nan", PHOTO), 422, "between 0 and 1")
    expect(client.post("/predict?cover=0.9", PHOTO), 422, "cover")
    expect(client.post("/predict?coverage=0.9&coverage=0.95", PHOTO), 422, "twice")
    expect(client.post("/explain?label=cat", PHOTO), 422, "cat")
    expect(client.ask("GET", "/predict"), 405, "GET")
    expect(client.ask("DELETE", "/models"), 405, "DELETE")
    expect(client.ask("GET", "/nothing/here"), 404, "/docs")
    expect(client.ask("GET", "/../serving/model.py"), 404, "/docs")
    assert client.post("/predict?coverage=0.95", PHOTO).status == 200


def test_a_stream_that_is_too_large_is_refused_before_it_ends(client: Client) -> None:
    sent = []

    def pieces() -> Iterator[bytes]:
        for number in range(200):
            sent.append(number)
            yield b"x" * 2**16

    try:
        expect(client.post("/predict", pieces()), 413, "1 MiB")
    except (BrokenPipeError, ConnectionResetError):
        pytest.fail("the connection was cut before the reason was told")
    assert client.post("/predict", PHOTO).status == 200


def test_mutated_bodies_crash_nothing_and_keep_nothing(client: Client, full: bool) -> None:
    num_bodies = 4000 if full else 1000
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    statuses = set()
    memory = []
    for number, (body, kind) in enumerate(fuzz(num_bodies, seed=1)):
        reply = ask_over(connection, "POST", "/predict", body, kind or None)
        assert reply.status == 200 or 400 <= reply.status < 500, reply
        assert reply.status == 200 or reply.value["error"]
        statuses.add(reply.status)
        if number in (500, num_bodies - 1):
            memory.append(psutil.Process().memory_info().rss)
    connection.close()

    assert {200, 400, 415} <= statuses
    assert memory[1] - memory[0] < 60 * 2**20
    assert client.post("/predict", PHOTO).status == 200


def test_clients_that_are_too_slow_are_told_so_and_hold_nobody_up(tiny: ModelPaths) -> None:
    with running(make_service(tiny, request_timeout=1.0)) as client:
        slow_heads = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(20)]
        for one in slow_heads[:10]:
            one.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")
        slow_body = socket.create_connection(("127.0.0.1", client.port))
        slow_body.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nabc")
        began = time.monotonic()
        assert client.post("/predict", PHOTO).status == 200
        assert time.monotonic() - began < 1.0
        for one in (*slow_heads, slow_body):
            one.settimeout(10)
            assert b" 408 " in one.recv(4096).splitlines()[0]
            one.close()


def test_heads_without_end_are_cut_off(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        line = b"a" * 100 + b": " + b"b" * 900 + b"\r\n"
        with pytest.raises(OSError):
            for _ in range(5000):
                connection.sendall(line)
        connection.close()
    assert client.post("/predict", PHOTO).status == 200


def test_what_all_clients_together_send_is_limited(tiny: ModelPaths) -> None:
    with running(make_service(tiny, most_held=300_000)) as client:
        holding = socket.create_connection(("127.0.0.1", client.port))
        holding.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 290000\r\n\r\n" + b"x" * 280_000
        )
        time.sleep(0.3)
        reply = client.post("/predict", b"x" * 50_000)
        expect(reply, 429, "at once")
        assert reply.headers["retry-after"] == "1"
        holding.close()
        time.sleep(0.3)
        assert client.post("/predict", PHOTO).status == 200


def test_with_a_token_only_who_knows_it_is_answered(tiny: ModelPaths) -> None:
    with running(make_service(tiny, token="s3cret")) as client:
        for header in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"}):
            for reply in (client.post("/predict", PHOTO, **header), client.ask("GET", "/models", **header)):
                expect(reply, 401, "token")
                assert reply.headers["www-authenticate"] == "Bearer"
        assert client.post("/predict", PHOTO, Authorization="Bearer s3cret").status == 200
        assert client.ask("GET", "/metrics", Authorization="bearer s3cret").status == 200
        for path in ("/", "/docs", "/health", "/openapi.json"):
            assert client.ask("GET", path).status == 200


def test_metrics_count_requests_images_and_batches(tiny: ModelPaths) -> None:
    with running(make_service(tiny)) as client:
        client.post("/predict", make_form([("a", PHOTO), ("b", PHOTO), ("c", b"bad")]), FORM)
        client.post("/predict", b"")
        client.ask("GET", "/nothing/here")
        lines = client.ask("GET", "/metrics").value.splitlines()

    assert 'serving_requests_total{path="/predict",status="200"} 1.0' in lines
    assert 'serving_requests_total{path="/predict",status="400"} 1.0' in lines
    assert 'serving_requests_total{path="",status="404"} 1.0' in lines
    assert 'serving_images_total{model="tiny",outcome="answered"} 2.0' in lines
    assert 'serving_images_total{model="tiny",outcome="refused"} 1.0' in lines
    assert 'serving_batch_images_count{model="tiny"} 1.0' in lines


def test_a_model_that_is_starting_is_not_healthy_yet(tiny: ModelPaths) -> None:
    with running(make_service(tiny, names=("tiny", "late"))) as client:
        assert client.ask("GET", "/health").status == 503
        expect(client.post("/models/late/predict", PHOTO), 503, "starting")
        assert client.ask("GET", "/models").value["models"][1] == {"name": "late", "ready": False}


def test_pages_load_nothing_from_elsewhere(client: Client) -> None:
    described = client.ask("GET", "/openapi.json").value
    assert {"/predict", "/models/{name}/predict", "/health", "/metrics"} <= described["paths"].keys()
    for path in ("/", "/docs", "/docs.css"):
        reply = client.ask("GET", path)
        assert reply.status == 200
        assert not re.search(r"(src|href|url)\W{1,3}(https?:)?//", reply.value)
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
