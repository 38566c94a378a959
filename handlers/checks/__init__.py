"""Parts of ``stackmend check`` that several services share: clocks, privileges, notifications and roles."""
