"""A studio whose artist ends its process at a row, as one does that the system kills for its memory."""

import os

from pocket_diffusion.batch.artist import Artist, Drawn, Studio
from pocket_diffusion.batch.row import Row
from pocket_diffusion.order import Order


class DeadlyStudio(Studio):
    def artist(self) -> Artist:
        return DeadlyArtist(self, super().artist().pipeline)


class DeadlyArtist(Artist):
    def draw_order(self, row: Row, order: Order) -> Drawn:
        if order.prompt == "die":
            os._exit(9)
        return super().draw_order(row, order)
