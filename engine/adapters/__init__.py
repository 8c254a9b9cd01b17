"""The tracker under other packages' interfaces: one file a package, which is imported only when it is used."""
