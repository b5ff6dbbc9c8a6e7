def register(registry): pass
