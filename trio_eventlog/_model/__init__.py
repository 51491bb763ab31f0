"""Values and their wire form. Floor 0: attrs and the codecs."""
