"""Opens the journal that the configuration names, and checks its schema."""

from __future__ import annotations

from oslo_config import cfg

from consumer.conf import engine as engine_conf
from consumer.conf import journal as journal_conf
from consumer.journal import migrations
from consumer.journal.database import Database, open_engine


def open_journal(conf: cfg.ConfigOpts) -> Database:
    url = journal_conf.settings(conf).connection
    database = Database(open_engine(url, pool_size=engine_conf.settings(conf).workers + 4))
    migrations.check(database)
    return database
