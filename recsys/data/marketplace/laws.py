"""The laws of the simulated marketplace: every constant behind what is shown, clicked and bought.

The world moves on the hour: catalogue, interests and their weights are constant within one, so that every
probability below is a closed form of (user, item, hour). A session shows a slate; each place of it is one
independent draw of `p_show`:

    p_show(i | u, h) = uniform / live items + fresh / fresh items + popular · share of i among the live
                       + active · share of i in the cluster of the active interest
                       + any · Σ_k weight_k · share of i in the cluster of interest k
    p_click          = position^−η · sigmoid(base + max_k [gain · z_k·v_i − away · (k not active)] + quality
                       + age × category + device × price − sensitivity × price + novelty)
    p_convert | click = sigmoid(base + fit · affinity + quality' + country × category + device × price
                       − sensitivity × price + promotion of the category)
    P(D ≤ t)         = F(t) / F(window),  F(t) = q · (1 − e^(−t/fast)) + (1 − q) · (1 − e^(−(t/scale)^shape)),
                       q and scale depend on price, device and age, and drift
"""

from __future__ import annotations

from typing import Final, Self

from pydantic import Field, model_validator

from recsys.config import Config

AGE_BANDS: Final = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
COUNTRIES: Final = ("DE", "US", "FR", "JP", "BR", "IN", "GB", "PL")
DEVICES: Final = ("mobile", "desktop", "tablet")
MOST_INTERESTS: Final = 5
HOUR_MS: Final = 3_600_000


class TreeLaw(Config):
    """Items in categories, subcategories, clusters: each level scatters around the one above.

    Attributes:
        categories: at the top.
        subcategories: of each category.
        clusters: of each subcategory; what an interest is about, and no attribute names it.
        brands: each sells in one category.
        dim: of the latent vectors.
        category_spread, subcategory_spread, cluster_spread, item_spread: length of the step from one level to the
            next; their squares add up to about 1, the squared length of an item's vector.
        size_spread: of the log-normal sizes of clusters.
    """

    categories: int = Field(ge=1)
    subcategories: int = Field(ge=1)
    clusters: int = Field(ge=1)
    brands: int = Field(ge=1)
    dim: int = Field(default=16, ge=2)
    category_spread: float = 0.6
    subcategory_spread: float = 0.5
    cluster_spread: float = 0.5
    item_spread: float = 0.5
    size_spread: float = 0.5


class CatalogueLaw(Config):
    """Items beyond their place in the tree.

    Attributes:
        arriving: share of items that appear during the simulation, uniformly over it.
        life: mean of the exponential time that an item stays from the start on, or from its own, in simulations.
        age_days: mean age of what is there at the start.
        popularity_spread: of the log-normal exposure; `popularity_quality` ties it to quality.
        price_spread: of the log-normal price within a category; `category_price_spread` between categories.
        quality_spread: of the standing of an item in the logits of clicks.
        bid_share: of the price, times the item's mean conversion odds; `bid_spread` is log-normal noise.
    """

    arriving: float = Field(default=0.25, ge=0, lt=1)
    life: float = Field(default=3.0, gt=0)
    age_days: float = Field(default=180.0, gt=0)
    popularity_spread: float = 1.0
    popularity_quality: float = 0.8
    price_spread: float = 0.5
    category_price_spread: float = 0.7
    quality_spread: float = 0.5
    bid_share: float = 0.2
    bid_spread: float = 0.4


class InterestLaw(Config):
    """What a user wants, and how it changes.

    Attributes:
        counts: probabilities of 1, 2, … MOST_INTERESTS interests.
        age_tilt: how much the age band decides which categories interests fall into.
        tastes: how many personal directions there are; an interest is its cluster's centre plus one of these.
        taste_spread: length of such a direction.
        life_days: mean time until an interest is replaced by another.
        active_days: mean time until the active interest is drawn anew, by weight.
        weight_spread: of the interests' log weights, uniform.
        wave: amplitude of the log weights' drift; `wave_days` its period.
    """

    counts: tuple[float, ...] = (0.15, 0.25, 0.3, 0.2, 0.1)
    age_tilt: float = 0.8
    tastes: int = Field(default=512, ge=1, le=32_767)
    taste_spread: float = 0.5
    life_days: float = Field(default=45.0, gt=0)
    active_days: float = Field(default=4.0, gt=0)
    weight_spread: float = 2.4
    wave: float = 0.8
    wave_days: float = Field(default=20.0, gt=0)


class PolicyLaw(Config):
    """Who decides what is shown: the shares of the mixture, which add up to 1.

    Attributes:
        uniform, fresh, popular, active, any: shares, see the module.
        fresh_hours: age up to which an item is fresh.
        slate: places shown in a session.
    """

    uniform: float = 0.05
    fresh: float = 0.05
    popular: float = 0.2
    active: float = 0.5
    any: float = 0.2
    fresh_hours: int = Field(default=72, ge=1)
    slate: int = Field(default=10, ge=1, le=255)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.uniform + self.fresh + self.popular + self.active + self.any
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the shares of the mixture add up to {total:g}, not to 1")
        return self


class ClickLaw(Config):
    """Examination and relevance; see the module.

    Attributes:
        base: intercept.
        eta: the place p is looked at with probability p^−eta.
        gain: of the product of interest and item.
        away: what an interest that is not active loses.
        age_category: spread of the age × category effects.
        device_price: slope of the standardised log price, by device.
        sensitivity: slope of user's sensitivity × standardised log price.
        novelty: what a new item gains; it fades with `novelty_hours`.
    """

    base: float = -4.4
    eta: float = Field(default=0.7, ge=0)
    gain: float = 4.0
    away: float = 1.2
    age_category: float = 0.5
    device_price: tuple[float, ...] = (-0.25, 0.2, 0.0)
    sensitivity: float = 0.35
    novelty: float = 0.6
    novelty_hours: float = Field(default=96.0, gt=0)


class ConversionLaw(Config):
    """Buying after a click; see the module.

    Attributes:
        base: intercept.
        fit: slope of the click's affinity.
        quality_spread: of the item's standing here, apart from that of clicks.
        country_category: spread of the country × category effects.
        device_price: slope of the standardised log price, by device.
        sensitivity: slope of user's sensitivity × standardised log price.
        promotion: amplitude of each category's promotions; `promotion_days` their period.
    """

    base: float = -3.6
    fit: float = 0.3
    quality_spread: float = 0.5
    country_category: float = 0.6
    device_price: tuple[float, ...] = (-0.5, 0.3, 0.0)
    sensitivity: float = 0.5
    promotion: float = 0.5
    promotion_days: float = Field(default=14.0, gt=0)


class DelayLaw(Config):
    """Time from click to conversion: a quick exponential and a slow Weibull part, cut off at the window.

    Attributes:
        window_hours: attribution window; only what converts within it is a conversion.
        fast_hours: mean of the quick part.
        shape: of the Weibull.
        base: logit of the quick share; log_scale: log hours of the slow part's scale.
        fast_price, fast_device, fast_wave: what standardised log price, device and a wave of `wave_days` add to it.
        scale_price, scale_age, scale_trend: what price, age band (from −1 to 1) and time (from −½ to ½ of the
            simulation) add to the log scale.
    """

    window_hours: float = Field(default=168.0, gt=0)
    fast_hours: float = Field(default=0.2, gt=0)
    shape: float = Field(default=0.6, gt=0)
    base: float = 0.4
    log_scale: float = 4.0
    fast_price: float = -0.5
    fast_device: tuple[float, ...] = (0.3, -0.3, 0.0)
    fast_wave: float = 0.4
    wave_days: float = Field(default=21.0, gt=0)
    scale_price: float = 0.4
    scale_age: float = 0.3
    scale_trend: float = 0.8


class Laws(Config):
    """A whole world: sizes, seed, and the law of each part.

    Attributes:
        preset: where the laws came from.
        seed: of everything random.
        start_ms: Unix milliseconds of the first hour.
        days: how long the simulation runs.
        users, items: how many there ever are.
        events: about how many events the log has; `events_a_session` turns them into sessions.
        activity_spread: of the log-normal activity of users.
        daily_wave: amplitude of activity over the hours of a day.
    """

    preset: str
    seed: int = Field(default=0, ge=0, lt=2**63)
    start_ms: int = 1_704_067_200_000
    days: int = Field(ge=1, le=3_650)
    users: int = Field(ge=1)
    items: int = Field(ge=1)
    events: int = Field(ge=1)
    events_a_session: float = Field(gt=0)
    activity_spread: float = 0.8
    daily_wave: float = Field(default=0.6, ge=0, lt=1)
    tree: TreeLaw
    catalogue: CatalogueLaw = CatalogueLaw()
    interests: InterestLaw = InterestLaw()
    policy: PolicyLaw = PolicyLaw()
    click: ClickLaw = ClickLaw()
    conversion: ConversionLaw = ConversionLaw()
    delay: DelayLaw = DelayLaw()

    @property
    def hours(self) -> int:
        """How many hours the simulation runs."""
        return 24 * self.days

    @property
    def end_ms(self) -> int:
        """First instant after the simulation."""
        return self.start_ms + self.hours * HOUR_MS

    @property
    def sessions_an_hour(self) -> float:
        """Mean sessions of all users in an hour."""
        return self.events / self.events_a_session / self.hours
