"""Certificates, keys and passwords in files: every mistake is told at once, with its date, and no secret is."""

import datetime as dt
import os
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certificates import DAY, Authority
from covey.certificates import from_der, from_pem
from covey.credentials import Credentials, kafka_settings
from covey.errors import ConfigError
from secured import write_secret

UTC = dt.timezone.utc


def _made(subject, begin, end):
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Görlitz & Co")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(2**150).not_valid_before(begin).not_valid_after(end)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_subject_issuer_and_dates_are_read_as_they_were_written() -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "left out"),
            x509.NameAttribute(NameOID.COMMON_NAME, "gateway\n1"),
        ]
    )
    # 2049 is the last year of UTCTime, 2050 the first of GeneralizedTime (RFC 5280, 4.1.2.5)
    begin, end = dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), dt.datetime(2050, 1, 1, tzinfo=UTC)
    read = from_der(_made(subject, begin, end))
    assert read == ("C=DE, CN=gateway?1", "O=Görlitz & Co", begin, end)
    assert from_der(_made(subject, dt.datetime(1999, 1, 1, tzinfo=UTC), end)).not_before.year == 1999


def test_damaged_certificates_are_value_errors_and_nothing_else() -> None:
    good = _made(x509.Name([]), dt.datetime(2020, 1, 1, tzinfo=UTC), dt.datetime(2030, 1, 1, tzinfo=UTC))
    for cut in range(0, len(good), 7):
        with pytest.raises(ValueError, match="damaged"):
            from_der(good[:cut])
    for at in range(120):
        try:
            from_der(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        except ValueError:
            continue
    with pytest.raises(ValueError, match="no PEM certificate"):
        from_pem(b"hello")
    with pytest.raises(ValueError, match="damaged"):
        from_pem(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----")


def test_every_wrong_file_is_told_at_once(tmp_path) -> None:
    authority = Authority(tmp_path)
    old, _ = authority.issue("old", ends_in=-DAY)
    _, other = authority.issue("other")
    empty = write_secret(tmp_path / "empty", "")
    mqtt = Credentials("mqtt", str(tmp_path / "none.pem"), str(old), str(other), "me", str(empty))
    ended = from_pem(old.read_bytes())[0].not_after
    assert mqtt.problems() == [
        f"mqtt_ca {tmp_path}/none.pem: no such file",
        f"mqtt_cert {old}: CN=old: expired {ended:%Y-%m-%d %H:%M} UTC",
        f"mqtt_key {other}: does not belong to mqtt_cert {old}",
        f"mqtt_password_file {empty}: is empty",
    ]
    swapped = Credentials("kafka", str(other), str(other), str(old), "me", str(tmp_path))
    assert [p.split(": ", 1)[1] for p in swapped.problems()] == [
        "no PEM certificate in it",
        "no PEM certificate in it",
        "no PEM private key in it",
        "a file expected, a folder found",
    ]


def test_good_files_have_no_problems_and_no_warnings(tmp_path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("me")
    good = Credentials(
        "mqtt", str(authority.ca), str(cert), str(key), "me", str(write_secret(tmp_path / "p", "pass word "))
    )
    assert good.problems() == []
    assert good.warnings() == []
    assert good.password() == "pass word "
    assert isinstance(good.context(), ssl.SSLContext)
    assert Credentials("mqtt", "system").context() is not None
    assert Credentials("mqtt").context() is None
    not_yet = good.problems(dt.datetime.now(UTC) - 2 * DAY)
    assert len(not_yet) == 2
    assert all("not valid before" in p for p in not_yet)


def test_a_ca_file_of_an_old_and_a_new_authority_is_good(tmp_path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    stale, _ = old.issue("stale", ends_in=-DAY)
    both = tmp_path / "both.pem"
    both.write_bytes(stale.read_bytes() + new.ca.read_bytes())
    assert Credentials("mqtt", str(both)).problems() == []
    assert "expired" in Credentials("mqtt", str(stale)).problems()[0]


def test_an_encrypted_key_is_refused_and_asks_nobody(tmp_path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("me")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"words"),
        )
    )
    locked = Credentials("mqtt", str(authority.ca), str(cert), str(key))
    assert "is encrypted" in locked.problems()[0]
    with pytest.raises(ConfigError, match="is encrypted"):
        locked.context()


def test_pipes_several_lines_and_binary_are_no_passwords(tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told = Credentials("mqtt", user="u", password_file=str(pipe)).problems()
    assert "a file expected" in told[0]
    for text, why in ((b"a\nb\n", "one line"), (b"\xff\xfe", "UTF-8"), (b"\r\n", "empty")):
        (tmp_path / "p").write_bytes(text)
        with pytest.raises(ConfigError, match=why):
            Credentials("mqtt", user="u", password_file=str(tmp_path / "p")).password()


def test_a_file_of_another_user_is_told(tmp_path) -> None:
    secret = write_secret(tmp_path / "p", "x")
    secret.chmod(0)
    root = os.geteuid() == 0
    if root:  # who may read everything: so as nobody, in folders that nobody may enter
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(folder.stat().st_mode | 0o011)
        os.seteuid(65_534)
    try:
        told = Credentials("mqtt", user="u", password_file=str(secret)).problems()
    finally:
        if root:
            os.seteuid(0)
    assert "this user may not read it" in told[0]


def test_open_secrets_clear_passwords_and_near_ends_are_warned_of(tmp_path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("me", ends_in=DAY)
    secret = write_secret(tmp_path / "p", "x")
    secret.chmod(0o644)
    key.chmod(0o604)
    clear = Credentials("mqtt", user="u", password_file=str(secret)).warnings()
    assert ["chmod 600" in w for w in clear] == [True, False]
    assert "0644" in clear[0]
    assert "not encrypted" in clear[1]
    tls = Credentials("kafka", str(authority.ca), str(cert), str(key)).warnings()
    assert ["0604" in tls[0], "expires" in tls[1], len(tls)] == [True, True, 2]
    key.chmod(0o640)  # for a group is how services share a key
    assert len(Credentials("kafka", str(authority.ca), str(cert), str(key)).warnings()) == 1


def test_rules_between_keys_are_told_together() -> None:
    assert Credentials("kafka", cert="c", user="u").rules() == [
        "kafka_cert and kafka_key: both or neither expected",
        "kafka_cert: kafka_ca expected beside it",
        "kafka_user: kafka_password_file expected beside it",
    ]
    assert Credentials("mqtt", user="u").rules() == []
    assert Credentials("mqtt", password_file="p").rules() == ["mqtt_password_file: mqtt_user expected beside it"]


def test_librdkafka_gets_what_the_keys_say(tmp_path) -> None:
    secret = write_secret(tmp_path / "p", "x")
    assert kafka_settings(Credentials("kafka"), "PLAIN") == {}
    clear = kafka_settings(Credentials("kafka", user="u", password_file=str(secret)), "PLAIN")
    assert clear == {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "u",
        "sasl.password": "x",
    }
    tls = kafka_settings(Credentials("kafka", "ca", "c", "k"), "PLAIN")
    assert (tls["security.protocol"], tls["ssl.ca.location"], tls["ssl.key.location"]) == ("ssl", "ca", "k")
    both = kafka_settings(Credentials("kafka", "system", user="u", password_file=str(secret)), "SCRAM-SHA-256")
    assert (both["security.protocol"], both["ssl.ca.location"]) == ("sasl_ssl", "probe")
    assert both["ssl.endpoint.identification.algorithm"] == "https"
    with pytest.raises(ConfigError, match="no such file"):
        kafka_settings(Credentials("kafka", user="u", password_file=str(tmp_path / "none")), "PLAIN")


def test_a_replaced_file_has_another_fingerprint(tmp_path) -> None:
    secret = write_secret(tmp_path / "p", "x")
    who = Credentials("kafka", "system", user="u", password_file=str(secret))
    first = who.fingerprint()
    assert who.fingerprint() == first
    write_secret(tmp_path / "q", "y").replace(secret)
    second = who.fingerprint()
    secret.unlink()
    assert len({first, second, who.fingerprint()}) == 3
