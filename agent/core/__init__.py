"""The pure core: names, entries, filters, reconcile, plan. No IO, no clock, no event loop."""
