"""The classes of the data sets, and which are mistaken for each other: the paper's asymmetric noise (section 5.1)."""

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

CITYSCAPES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")

DIGITS = tuple("0123456789")

SUPER_CLASSES = {
    "person": ("person",),
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "outdoor": ("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "accessory": ("backpack", "umbrella", "handbag", "tie", "suitcase"),
    "sports": (
        "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
        "surfboard", "tennis racket",
    ),
    "kitchen": ("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    "food": (
        "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake",
    ),
    "furniture": ("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    "electronic": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    "appliance": ("microwave", "oven", "toaster", "sink", "refrigerator"),
    "indoor": ("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
}  # fmt: skip
"""COCO's 80 classes by super-class, as its own annotation files have them."""

SUPER_CLASS_OF = {name: group for group, members in SUPER_CLASSES.items() for name in members}

CLASSES = {"voc": VOC, "cityscapes": CITYSCAPES, "coco": tuple(SUPER_CLASS_OF), "digits": DIGITS}

MAPS = {
    "voc": {
        "bird": "aeroplane", "diningtable": "chair", "bus": "car", "sheep": "horse", "bicycle": "motorbike",
        "motorbike": "bicycle", "cat": "dog", "dog": "cat",
    },
    "cityscapes": {
        "person": "rider", "rider": "person", "bus": "truck", "truck": "bus", "motorcycle": "bicycle",
        "bicycle": "motorcycle",
    },
    "digits": {"1": "7", "7": "1", "3": "8", "8": "3", "4": "9", "9": "4", "5": "6", "6": "5"},
}  # fmt: skip
"""What a class is mistaken for; classes without an entry stay. COCO has its super-classes instead."""

NEVER_FLIPPED = "person"
"""With super-classes: it is mistaken for nothing and nothing for it, whatever its group in the file."""
