"""Scripts that make corpora, releases and the README's picture. Nothing in the package imports them."""
