"""Importing this module imports what trials need, torch and timm included: workers begin so."""

from trainables.trial import import_engine

import_engine()
