"""The machine-readable mark of generated media, as IPTC's Photo and Video Metadata standards define it."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's digital source type of media that a trained model made."""

_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool={tool}
    Iptc4xmpExt:DigitalSourceType={source}
    Iptc4xmpExt:AISystemUsed={generator}
    Iptc4xmpExt:AISystemVersionUsed={version}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def xmp_packet(generator: str, version: str) -> str:
    """An XMP packet with the digital source type and the generator's name and version.

    It holds no time and no id, so that the same job makes the same bytes.
    """
    return _PACKET.format(
        tool=quoteattr(f"{generator} {version}"),
        source=quoteattr(TRAINED_ALGORITHMIC_MEDIA),
        generator=quoteattr(generator),
        version=quoteattr(version),
    )
