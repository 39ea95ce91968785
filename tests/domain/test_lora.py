"""Names of a LoRA in a request."""

import pytest

from serve_app.domain.lora import FileUrl, HubFile, parse_lora_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/style.safetensors",
        "https://example.org/api/download/models/12345?type=Model&format=SafeTensor",
        "HTTP://localhost:8000/files/r/0195/1/a.safetensors",
        "data:application/octet-stream;base64,AAAA",
    ],
)
def test_urls_are_taken_as_they_are(url):
    assert parse_lora_path(url) == FileUrl(url)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("house/style", HubFile("house/style")),
        ("house/style-v1.5_b", HubFile("house/style-v1.5_b")),
        (f"house/style@{COMMIT}", HubFile("house/style", None, COMMIT)),
        ("house/style@refs/pr/1", HubFile("house/style", None, "refs/pr/1")),
        ("house/style/a.safetensors", HubFile("house/style", "a.safetensors")),
        (
            "house/style/in a/b c.safetensors@v2",
            HubFile("house/style", "in a/b c.safetensors", "v2"),
        ),
    ],
)
def test_repositories_are_parsed_with_file_and_revision(path, named):
    assert parse_lora_path(path) == named


@pytest.mark.parametrize(
    "path",
    [
        "",
        "style",
        "/etc/passwd",
        "/srv/loras/a.safetensors",
        "./house/style",
        "../house/style",
        "house/..",
        "~/loras/a.safetensors",
        "C:\\loras\\a.safetensors",
        "file:///srv/a.safetensors",
        "s3://bucket/a.safetensors",
        "house/style/../../a.safetensors",
        "house/style/",
        "house/style@",
        "house/style@../main",
        "a--b/c",
        "http://",
        "house/style\n",
    ],
)
def test_what_could_be_a_file_of_ours_is_refused(path):
    with pytest.raises(ValueError, match="Input should be an http"):
        parse_lora_path(path)


@pytest.mark.parametrize("path", ["house/style/a.bin", "house/style/a.pt@main", "house/style/a"])
def test_pickles_are_refused(path):
    with pytest.raises(ValueError, match="pickle files can run code"):
        parse_lora_path(path)
