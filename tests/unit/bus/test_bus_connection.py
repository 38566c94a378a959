"""Transport URLs: what oslo.messaging means by them, and that no password gets out."""

import contextlib
import socket
import ssl
import threading
import traceback
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg

from consumer.bus.connection import NoBroker, connect, plan
from consumer.conf import bus
from consumer.conf.bus import BusSettings, QueueMode, UnusableURL

SECRET = "Geheim"


def arguments(url: str, settings: BusSettings | None = None) -> list[dict[str, Any]]:
    found = [dict(endpoint.arguments) for endpoint in plan(url, settings or BusSettings()).endpoints]
    return sorted(found, key=lambda one: str(one["hostname"]))


def configured(text: str, tmp_path: Any) -> BusSettings:
    file = tmp_path / "stackmend.conf"
    file.write_text(text)
    conf = cfg.ConfigOpts()
    bus.register(conf)
    conf([], project="stackmend", default_config_files=[str(file)], default_config_dirs=[])
    return bus.settings(conf)


def test_every_host_of_a_url_is_tried() -> None:
    one, two = arguments(f"rabbit://nova:{SECRET}@h1:5671,nova:{SECRET}@h2/cell1")
    assert (one["hostname"], one["port"], one["virtual_host"]) == ("h1", 5671, "cell1")
    assert (two["hostname"], two["port"], two["virtual_host"]) == ("h2", 5672, "cell1")
    assert (one["userid"], one["password"]) == ("nova", SECRET)


@pytest.mark.parametrize(
    ("path", "vhost"), [("", "/"), ("/", "/"), ("//", "/"), ("/%2F", "/"), ("/nova", "nova"), ("/%2Fnova", "/nova")]
)
def test_the_virtual_host_is_the_one_of_oslo_messaging(path: str, vhost: str) -> None:
    assert arguments(f"rabbit://u:p@h{path}")[0]["virtual_host"] == vhost


def test_quoted_characters_and_addresses() -> None:
    (only,) = arguments("rabbit://us%40er:p%2Fw%3A@[::1]:5673/")
    assert (only["userid"], only["password"]) == ("us@er", "p/w:")
    assert (only["hostname"], only["port"]) == ("[::1]", 5673)


def test_options_come_from_the_file_and_the_query_wins(tmp_path: Any) -> None:
    text = "[oslo_messaging_rabbit]\nheartbeat_timeout_threshold = 7\nrabbit_login_method = PLAIN\nrabbit_interval_max = 9\n"
    settings = configured(text, tmp_path)
    (only,) = arguments("rabbit://u:p@h/?heartbeat_timeout_threshold=11", settings)
    assert (only["heartbeat"], only["login_method"]) == (11, "PLAIN")
    assert plan("rabbit://u:p@h/", settings).retry_most == 9


def test_tls_is_verified_against_the_private_authority(tmp_path: Any) -> None:
    settings = configured("[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = /ca.pem\n", tmp_path)
    one, two = arguments("rabbit://u:p@h1,u:p@h2/", settings)
    assert one["ssl"] == {"ca_certs": "/ca.pem", "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "h1"}
    assert two["ssl"]["server_hostname"] == "h2"
    assert arguments("rabbit://u:p@h1/?ssl=0", settings)[0]["ssl"] is False
    assert arguments("rabbit://u:p@h1/?ssl=1")[0]["ssl"] is True


def test_tls_is_that_of_the_publishers_unless_our_options_differ(tmp_path: Any) -> None:
    theirs = (("ssl", "true"), ("ssl_ca_file", "/theirs.pem"))

    def chosen(url: str, settings: BusSettings) -> object:
        return plan(url, settings, theirs).endpoints[0].arguments["ssl"]

    expected = {"ca_certs": "/theirs.pem", "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "h"}
    assert chosen("rabbit://u:p@h/", BusSettings()) == expected
    ours = configured("[oslo_messaging_rabbit]\nssl_ca_file = /ours.pem\n", tmp_path)
    assert chosen("rabbit://u:p@h/", ours) == {**expected, "ca_certs": "/ours.pem"}
    assert chosen("rabbit://u:p@h/?ssl_ca_file=/url.pem", ours) == {**expected, "ca_certs": "/url.pem"}
    assert chosen("rabbit://u:p@h/", configured("[oslo_messaging_rabbit]\nssl = false\n", tmp_path)) is False
    with pytest.raises(UnusableURL, match="ssl of the broker's publishers"):
        plan("rabbit://u:p@h/", BusSettings(), (("ssl", "perhaps"),))


@pytest.mark.parametrize("query", ["ssl=1", "ssl=1&ssl_version=TLSv1_2", "ssl=1&ssl_version=SSLv23"])
def test_without_an_authority_of_its_own_the_broker_is_verified_by_the_systems(query: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def answer() -> None:
        wire, _address = listener.accept()
        with wire, contextlib.suppress(OSError):
            context.wrap_socket(wire, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        broker = threading.Thread(target=answer)
        broker.start()
        settings = BusSettings()
        url = f"rabbit://u:p@127.0.0.1:{listener.getsockname()[1]}/?{query}"
        with pytest.raises(ConnectionError, match=r"certificate verify failed.*ssl_ca_file is not set"):
            connect(plan(url, settings).endpoints, settings)
        broker.join()


@pytest.mark.parametrize("url", ["memory://", "kombu+memory://", "kombu+memory:////"])
def test_the_broker_in_memory(url: str) -> None:
    assert arguments(url)[0]["hostname"] == "memory://"


def test_no_broker_on_purpose() -> None:
    with pytest.raises(NoBroker):
        plan("none:///", BusSettings())


@pytest.mark.parametrize(
    "url",
    [
        f"kafka://u:{SECRET}@h/",
        f"fake://u:{SECRET}@h/",
        f"rabbit://u:{SECRET}@h:port/",
        f"rabbit://u:{SECRET}/x@h/",
        f"rabbit://u:{SECRET}#x@h/",
        f"rabbit://u:{SECRET}@h/?ssl=perhaps",
        f"rabbit://u:{SECRET}@h/?no_such_option=1",
        f"//u:{SECRET}@h/",
        f"u:{SECRET}@h",
        f"u:{SECRET}",
        f"rabbit://u:{SECRET}",
        "rabbit://[::1/",
        f"rabbit://u1:p1@h1,u2:{SECRET}/",
        f"u:p@{SECRET}",
        f"kafka://u:p@{SECRET}",
        f"rabbit://u:p?no_such_option={SECRET}@h/",
        f"rabbit://u:12?{SECRET}=1@h/",
        f"rabbit://u:12/{SECRET}@h/",
        f"rabbit://u:12#{SECRET}@h/",
        f"rabbit://u:a@b?{SECRET}=c@h/",
        f"rabbit://us/er:{SECRET}@h/",
        f"rabbit://u1:p1@h1,us/er:{SECRET}@h2/",
    ],
)
def test_the_error_for_an_unusable_url_hides_the_password(url: str) -> None:
    with pytest.raises(UnusableURL) as caught:
        plan(url, BusSettings())
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) > 20


@given(st.text(alphabet="abc:/@,#?%[]. 1", max_size=30))
def test_any_text_is_a_plan_or_unusable(text: str) -> None:
    for url in (text, f"rabbit://{text}"):
        with contextlib.suppress(UnusableURL):
            plan(url, BusSettings())


def test_a_plan_can_be_printed() -> None:
    assert SECRET not in repr(plan(f"rabbit://nova:{SECRET}@h1/", BusSettings()))


def test_queues_and_bindings_follow_from_the_settings() -> None:
    assert BusSettings().queues == ("stackmend.info", "stackmend.error")
    assert BusSettings().bindings == ()
    bound = BusSettings(queue_mode=QueueMode.BIND)
    assert bound.queues == ("stackmend.events",)
    assert bound.bindings == (
        "versioned_notifications.info",
        "versioned_notifications.error",
        "notifications.info",
        "notifications.error",
    )
    assert BusSettings(batch_size=7).prefetch == 14


def test_options_are_read_as_they_are_written(tmp_path: Any) -> None:
    text = "[bus]\nqueue_mode = bind\ntopics = a, b\npriorities = info,warn\nbatch_size = 3\nbatch_seconds = 0.5\n"
    settings = configured(text, tmp_path)
    assert (settings.queue_mode, settings.topics, settings.priorities) == ("bind", ("a", "b"), ("info", "warn"))
    assert (settings.batch_size, settings.batch_seconds) == (3, 0.5)
    assert configured("", tmp_path) == BusSettings()


@pytest.mark.parametrize("line", ["queue_mode = pool", "priorities = loud", "batch_size = 0", "batch_seconds = -1"])
def test_a_wrong_option_is_refused(line: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError):
        configured(f"[bus]\n{line}\n", tmp_path)
