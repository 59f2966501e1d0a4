"""Keys, certificates and signatures of engine `flower`: what Flower and TLS themselves say of them, and what is refused."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading

import msgspec
import pytest
from flwr.supercore.fab import Fab
from flwr.supernode.start_client_internal import _verify_fab

from covey.errors import UsageError
from federated.engines.flower import Link, superlink_words
from federated.engines.flower_control import learning_app
from federated.engines.flower_keys import (
    hosts_of,
    make_node_key,
    make_signer_key,
    own_tls,
    read_app,
    read_node_key,
    read_node_public,
    read_signers,
    sign_app,
)


def shake(tls, ca, name):
    """What a client that trusts `ca` says to a server of `tls` that it calls `name`: "" when it is content."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls.cert, tls.key)
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.settimeout(10)

    def serve():
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (OSError, ssl.SSLError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ssl.create_default_context(cafile=ca).wrap_socket(ours, server_hostname=name).close()
    except ssl.SSLError as error:
        return str(error)
    finally:
        ours.close()
        thread.join(10)
    return ""


def test_an_own_certificate_is_believed_for_its_names_and_no_other(tmp_path):
    tls = own_tls(tmp_path / "tls", ["127.0.0.1", "cloud.example.org"])
    assert shake(tls, tls.ca, "127.0.0.1") == ""
    assert shake(tls, tls.ca, "cloud.example.org") == ""
    assert "mismatch" in shake(tls, tls.ca, "other.example.org")
    other = own_tls(tmp_path / "other", ["127.0.0.1"])
    assert "verify failed" in shake(tls, other.ca, "127.0.0.1")
    assert {one.name: one.stat().st_mode & 0o777 for one in (tmp_path / "tls").glob("*.key")} == {
        "ca.key": 0o600,
        "superlink.key": 0o600,
    }


def test_another_name_makes_a_new_certificate_under_the_same_ca(tmp_path):
    first = own_tls(tmp_path, ["127.0.0.1"])
    ca, cert = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "superlink.pem").read_bytes()
    own_tls(tmp_path, ["127.0.0.1"])
    assert (tmp_path / "superlink.pem").read_bytes() == cert
    own_tls(tmp_path, ["127.0.0.1", "b.example.org"])
    assert (tmp_path / "ca.pem").read_bytes() == ca
    assert hosts_of(tmp_path / "superlink.pem") == {"127.0.0.1", "b.example.org"}
    assert shake(first, first.ca, "b.example.org") == ""


def test_flower_itself_believes_the_signature_of_a_trusted_signer_only(tmp_path):
    for name in ("signer", "stranger"):
        make_signer_key(tmp_path / name)
    app = learning_app()
    signed = sign_app(app, tmp_path / "signer")
    record = json.dumps({"signed_at": signed.signed_at, "signature": signed.signature})
    fab = Fab(hashlib.sha256(app).hexdigest(), app, {"valid_license": "Valid", signed.signer: record})
    assert _verify_fab(fab, read_signers([tmp_path / "signer.pub"]))
    assert _verify_fab(fab, read_signers([tmp_path / "stranger.pub", tmp_path / "signer.pub"]))
    assert not _verify_fab(fab, read_signers([tmp_path / "stranger.pub"]))
    changed = Fab(fab.hash_str, app + b"x", fab.verifications)
    assert not _verify_fab(changed, read_signers([tmp_path / "signer.pub"]))
    (tmp_path / "app.json").write_bytes(msgspec.json.encode(signed))
    assert read_app(tmp_path / "app.json") == signed


def test_the_app_is_the_same_bytes_each_time_and_holds_no_code():
    import io
    import zipfile

    assert learning_app() == learning_app()
    names = zipfile.ZipFile(io.BytesIO(learning_app())).namelist()
    assert sorted(names) == [".info/CONTENT", "pyproject.toml"]


def test_a_key_is_never_written_over(tmp_path):
    make_node_key(tmp_path / "node.key")
    before = (tmp_path / "node.key").read_bytes()
    with pytest.raises(UsageError, match="never written over"):
        make_node_key(tmp_path / "node.key")
    (tmp_path / "b.key.pub").touch()
    with pytest.raises(UsageError, match="never written over"):
        make_node_key(tmp_path / "b.key")
    assert not (tmp_path / "b.key").exists()
    assert (tmp_path / "node.key").read_bytes() == before


def test_a_key_that_others_may_read_or_of_another_kind_is_refused(tmp_path):
    public = make_node_key(tmp_path / "node.key")
    assert read_node_public(public).startswith(b"-----BEGIN PUBLIC KEY-----")
    read_node_key(tmp_path / "node.key")
    (tmp_path / "node.key").chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        read_node_key(tmp_path / "node.key")
    make_signer_key(tmp_path / "signer")
    with pytest.raises(UsageError, match="of another kind"):
        read_node_key(tmp_path / "signer")
    with pytest.raises(UsageError, match="of another kind"):
        read_node_public(tmp_path / "signer.pub")
    with pytest.raises(UsageError, match="of another kind"):
        read_signers([public])
    with pytest.raises(UsageError, match="of another kind"):
        sign_app(b"app", tmp_path / "node.key")
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "junk").chmod(0o600)
    for read in (read_node_key, read_node_public, read_app, lambda path: read_signers([path])):
        with pytest.raises(UsageError, match="expected"):
            read(tmp_path / "junk")
        with pytest.raises(UsageError, match="No such file"):
            read(tmp_path / "none")


def test_a_certificate_given_must_name_the_hosts_that_devices_use(tmp_path):
    tls = own_tls(tmp_path / "tls", ["127.0.0.1"])
    link = Link(str(tmp_path), cert=tls.cert, key=tls.key, names=["cloud.example.org"])
    with pytest.raises(UsageError, match=r"a certificate for cloud\.example\.org expected"):
        superlink_words(link, die_with_parent=False)
    with pytest.raises(UsageError, match="both or neither"):
        superlink_words(Link(str(tmp_path), cert=tls.cert), die_with_parent=False)
