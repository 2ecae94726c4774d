"""A page on which one clicks on an image and sees what trained networks attend to there."""

from attnconv.explain.web.opened import Opened, WebImage, WebNetwork, open_image
from attnconv.explain.web.page import web_page
from attnconv.explain.web.server import HOST, WebServer

__all__ = ["HOST", "Opened", "WebImage", "WebNetwork", "WebServer", "open_image", "web_page"]
