from potstill.methods.base import Before, Preset

PRESET = Preset(
    name="fitnet_2stage",
    loss="potstill.losses.fitnet:FitNet",
    year=2015,
    compares="a hidden feature map, first; then class probabilities",
    at="stage:2",
    weight=1.0,
    weight_source="1, alone in its stage; then soft cross-entropy 4 to 1 at T = 3 beside the labels: the paper and its code",
    before=Before(
        share=30 / 270,
        main_weight=0.0,
        source="the paper: until its validation stands still; here 30 before 240 epochs as RepDistiller's other stages",
    ),
    beside={"soft_ce": {"weight": {"from": 4.0, "to": 1.0}, "temperature": 3.0}},
    use_when="to repeat the paper: a thin and deep student that hardly trains from the labels",
    notes=(
        "The paper's two stages: the student up to the guided layer learns the teacher's hint through a regressor, at a "
        "constant learning rate (there RMSProp); then the whole student learns from labels and teacher, whose weight falls "
        "linearly. The authors' code has no factor T², so this is soft_ce, and 4 of it are 4/9 of kd. The regressor is a "
        "convolution with BatchNorm as in RepDistiller. fitnet is the joint form that all later tables have."
    ),
)
