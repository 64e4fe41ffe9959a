"""Fashion-MNIST, of which a part arrives later: a finished model is brought up to date, or trained anew."""
