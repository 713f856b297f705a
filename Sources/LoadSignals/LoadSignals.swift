// How busy the engines say they are.
