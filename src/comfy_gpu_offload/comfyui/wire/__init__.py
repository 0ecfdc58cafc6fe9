"""The form in which patches, hooks, ControlNets and model sampling cross the wire, with writers and readers."""
